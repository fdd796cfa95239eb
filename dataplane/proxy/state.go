// Package proxy is the request pipeline: what happens to a request between the
// connection that brought it and the one that carries it on. Its one idea is that a request is a
// sequence of narrowings (host → service → route → backend → cluster → endpoint), each a stage that
// states one fact, and that a refusal becomes a response once, outermost, with its reason.
//
// It owns no socket's life (dataplane/tunnel and the engines do), follows no control plane
// (dataplane/agent does) and computes no policy (core/policy and core/balance do). The stages
// stand in order in pipeline.go. Read State first, then Outbound and Inbound.
package proxy

import (
	"net/netip"

	"github.com/isthmus-mesh/isthmus/core/balance"
	"github.com/isthmus-mesh/isthmus/core/health"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/limit"
	"github.com/isthmus-mesh/isthmus/dataplane/condition"
	"github.com/isthmus-mesh/isthmus/dataplane/fallback"
	"github.com/isthmus-mesh/isthmus/dataplane/ingress"
	"github.com/isthmus-mesh/isthmus/dataplane/intake"
	"github.com/isthmus-mesh/isthmus/dataplane/mishap"
	"github.com/isthmus-mesh/isthmus/dataplane/quota"
	"github.com/isthmus-mesh/isthmus/dataplane/route"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// State is a complete configuration: everything that a request is decided by. It is
// immutable; a change is a new State behind one pointer, and a request in flight finishes under
// the one it began with. Only the measurements inside balance.View move.
type State struct {
	// Ready is false until the first complete configuration: requests are refused with
	// proxy_not_ready.
	Ready bool
	// Self is the proxy's own resource.
	Self *ir.Proxy
	// Names are all services that may be called.
	Names map[mesh.ServiceName]*ir.Name
	// ByAddress finds a service by its address in the view's cluster.
	ByAddress map[netip.Addr]mesh.ServiceName
	// Services holds those whose routes and endpoints have arrived. A name that is in Names
	// and not here is to be asked for: see Demand.
	Services map[mesh.ServiceName]*Service
	// Clusters by name.
	Clusters map[mesh.ClusterName]*ir.Cluster
	// Inbound is what the proxy's own workload serves.
	Inbound map[mesh.ServiceName]*Inbound
	// Slots is a gateway's routing table.
	Slots map[mesh.ServiceName]*ir.Slots
	// Ingress is where requests from outside the mesh belong.
	Ingress *ingress.Tables
	// Vector is how much the state knows.
	Vector mesh.Vector
}

// Service is how requests to one service are routed and where they go. Make one with
// NewService.
type Service struct {
	*ir.Service
	// View is nil when the service has no endpoints resource.
	View *balance.View
	// Live is what was measured, and is in progress.
	Live *Live
	// Fallback is nil where nothing answers in the service's place.
	Fallback *fallback.Plan

	routes *route.Table
	faults []mishap.Fault
	retry  condition.Set
	budget balance.BudgetRate
	to     string // "namespace/name", for FieldTo
}

// Inbound is a service the proxy's workload serves. Make one with NewInbound.
type Inbound struct {
	Service mesh.ServiceName
	// Access is nil until the rules arrived: until then everything is denied.
	Access *Access
	// Health is what the application's health check says; it stays while there is a check.
	Health *health.Sign
	// Traffic is the service's policy; never nil.
	Traffic *ir.Traffic
	// Gate lets requests into the application; nil all.
	Gate *intake.Gate

	ports map[portKey]inboundPort
	rates *quota.Limits
	// concurrency outlives changes of configuration.
	concurrency *limit.Gauge
}

// Demand is how the pipeline asks for a service that is not in the state. It returns the
// first state that has it, or that knows it does not exist, or the error of the deadline; it is
// called on first use only.
type Demand func(service mesh.ServiceName, deadline int64) (*State, error)

// Reserved fields between proxies. They are stripped from what applications send and
// never shown to them.
const (
	// FieldTo is "namespace/service:port", the service and port that the client proxy
	// routed to.
	FieldTo = "isthmus-to"
	// FieldHTTP2 on a request to a port of which nothing was declared says that it came as HTTP/2: the application is
	// spoken to as its client speaks.
	FieldHTTP2 = "isthmus-http2"
	// FieldDeadline is what is left of the request's time, in milliseconds.
	FieldDeadline = "isthmus-deadline"
	// FieldNotExecuted on a response says that the application has not seen the request,
	// so that any method may be tried elsewhere; its value is the reason.
	FieldNotExecuted = "isthmus-not-executed"
	// FieldTag on a response names the endpoint that answered.
	FieldTag = "isthmus-endpoint"
	// FieldLoad on a response says how busy the endpoint is (meter.Meter.AppendReport).
	FieldLoad = "isthmus-load"
	// FieldNotSwitched on a 2xx response to an upgrade says that the application answered
	// without switching protocols, which the 200 of extended CONNECT cannot tell.
	FieldNotSwitched = "isthmus-not-switched"
	// FieldReason on a response to an application says why a request was refused or failed.
	FieldReason = "isthmus-reason"
	// FieldRequestID names a request in logs and spans of every hop, and on a response that says
	// why the request was refused or failed.
	FieldRequestID = "x-request-id"
	// FieldCaller tells the application who called: the SPIFFE ID that was authenticated.
	FieldCaller = route.FieldCaller
)
