package manifest

import (
	"slices"
	"strings"
	"sync"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Kind describes one kind of object.
type Kind struct {
	Kind       string
	APIVersion string   // preferred, such as "gateway.networking.k8s.io/v1"
	Also       []string // other versions of the group that are read the same way
	Plural     string
	Short      []string
	// Namespaced objects live in a namespace.
	Namespaced bool
	// Replicated objects go to every cluster unless labelled to stay home.
	Replicated bool
	// Order is the place in the order of writes: what others refer to comes first.
	// Deletes go in the opposite order.
	Order int
	// File says that objects of the kind are files of a command: they are never stored.
	File bool
	// Kept objects are checked and stored, and nothing acts on them yet.
	Kept bool
}

// Group is the API group, "" for the core group.
func (k Kind) Group() string { return groupOf(k.APIVersion) }

// Resource is the name to tell kinds of several groups apart: "httproutes.gateway.networking.k8s.io".
func (k Kind) Resource() string {
	if g := k.Group(); g != "" {
		return k.Plural + "." + g
	}
	return k.Plural
}

// Names are all words a user may type for the kind, in lower case.
func (k Kind) Names() []string {
	names := append([]string{k.Plural, strings.ToLower(k.Kind)}, k.Short...)
	if k.Group() != "" {
		names = append(names, k.Resource())
	}
	return names
}

// reads reports whether the version is one we read.
func (k Kind) reads(apiVersion string) bool {
	return k.APIVersion == apiVersion || contains(k.Also, apiVersion)
}

// isSecurity reports whether ignoring a part of such an object could let through what
// its author meant to stop.
func (k Kind) isSecurity() bool {
	return k.Kind == string(mesh.KindAccessPolicy) || k.Kind == string(mesh.KindResidencyPolicy)
}

func groupOf(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return g
}

// Versions of the groups.
const (
	coreVersion      = "v1"
	discoveryVersion = "discovery.k8s.io/v1"
	gatewayGroup     = "gateway.networking.k8s.io"
	gatewayVersion   = gatewayGroup + "/v1"
	mcsGroup         = "multicluster.x-k8s.io"
	mcsVersion       = mcsGroup + "/v1alpha1"
	isthmusGroup     = "isthmus.dev"
	isthmusVersion   = isthmusGroup + "/v1alpha1"
)

// KindLocalMesh is the kind of mesh.yaml, which is a file and never a stored object.
const KindLocalMesh = "LocalMesh"

// KindSimulation is the kind of a scenario of isthmus simulate, which is a file too.
const KindSimulation = "Simulation"

// isFile reports whether objects of the kind are files of a command and never stored.
func isFile(kind string) bool { return kind == KindLocalMesh || kind == KindSimulation }

// Kinds lists the kinds in the order of writes. The list is the caller's.
func Kinds() []Kind { return slices.Clone(allKinds()) }

// allKinds is the same, for whom does not change it: every object that is read asks.
var allKinds = sync.OnceValue(makeKinds)

func makeKinds() []Kind {
	beta, alpha2, alpha3 := gatewayGroup+"/v1beta1", gatewayGroup+"/v1alpha2", gatewayGroup+"/v1alpha3"
	mcsBeta := []string{mcsGroup + "/v1beta1"}
	kinds := []Kind{
		{Kind: "Namespace", APIVersion: coreVersion, Plural: "namespaces", Short: []string{"ns"}},
		{Kind: "Mesh", APIVersion: isthmusVersion, Plural: "meshes"},
		{Kind: "Cluster", APIVersion: isthmusVersion, Plural: "clusters", Short: []string{"cl"}},
		{Kind: "ServiceAccount", APIVersion: coreVersion, Plural: "serviceaccounts", Short: []string{"sa"}, Namespaced: true},
		{Kind: "Secret", APIVersion: coreVersion, Plural: "secrets", Namespaced: true},
		{Kind: "ConfigMap", APIVersion: coreVersion, Plural: "configmaps", Short: []string{"cm"}, Namespaced: true},
		{Kind: "ReferenceGrant", APIVersion: gatewayVersion, Also: []string{beta, alpha2}, Plural: "referencegrants", Short: []string{"refgrant"}, Namespaced: true},
		{Kind: "ResidencyPolicy", APIVersion: isthmusVersion, Plural: "residencypolicies", Short: []string{"rp"}, Namespaced: true},
		{Kind: "AccessPolicy", APIVersion: isthmusVersion, Plural: "accesspolicies", Short: []string{"ap"}, Namespaced: true},
		{Kind: "TrafficPolicy", APIVersion: isthmusVersion, Plural: "trafficpolicies", Short: []string{"tp"}, Namespaced: true},
		{Kind: "FaultPolicy", APIVersion: isthmusVersion, Plural: "faultpolicies", Short: []string{"fp"}, Namespaced: true},
		{Kind: "TelemetryPolicy", APIVersion: isthmusVersion, Plural: "telemetrypolicies", Namespaced: true},
		{Kind: "BackendTLSPolicy", APIVersion: gatewayVersion, Also: []string{alpha3}, Plural: "backendtlspolicies", Short: []string{"btlspolicy"}, Namespaced: true},
		{Kind: "Workload", APIVersion: isthmusVersion, Plural: "workloads", Short: []string{"wl"}, Namespaced: true},
		{Kind: "Service", APIVersion: coreVersion, Plural: "services", Short: []string{"svc"}, Namespaced: true},
		{Kind: "EndpointSlice", APIVersion: discoveryVersion, Plural: "endpointslices", Namespaced: true},
		{Kind: "ServiceExport", APIVersion: mcsVersion, Also: mcsBeta, Plural: "serviceexports", Short: []string{"svcex"}, Namespaced: true},
		{Kind: "ServiceImport", APIVersion: mcsVersion, Also: mcsBeta, Plural: "serviceimports", Short: []string{"svcim"}, Namespaced: true},
		{Kind: "Gateway", APIVersion: gatewayVersion, Also: []string{beta}, Plural: "gateways", Short: []string{"gtw"}, Namespaced: true},
		{Kind: "HTTPRoute", APIVersion: gatewayVersion, Also: []string{beta}, Plural: "httproutes", Namespaced: true},
		{Kind: "GRPCRoute", APIVersion: gatewayVersion, Also: []string{alpha2}, Plural: "grpcroutes", Namespaced: true},
		{Kind: "TLSRoute", APIVersion: gatewayVersion, Also: []string{alpha2, alpha3}, Plural: "tlsroutes", Namespaced: true},
		{Kind: "TCPRoute", APIVersion: gatewayVersion, Also: []string{alpha2}, Plural: "tcproutes", Namespaced: true},
		{Kind: "UDPRoute", APIVersion: gatewayVersion, Also: []string{alpha2}, Plural: "udproutes", Namespaced: true},
		{Kind: "Drain", APIVersion: isthmusVersion, Plural: "drains"},
		{Kind: "Rollout", APIVersion: isthmusVersion, Plural: "rollouts", Kept: true},
		{Kind: KindLocalMesh, APIVersion: isthmusVersion, Plural: "localmeshes"},
		{Kind: KindSimulation, APIVersion: isthmusVersion, Plural: "simulations"},
	}
	for i := range kinds {
		kinds[i].Order, kinds[i].File = i, isFile(kinds[i].Kind)
		kinds[i].Replicated = mesh.Kind(kinds[i].Kind).Replicated()
	}
	return kinds
}

// KindNamed finds the kind a user means by a plural, a singular, a short name or a
// kind, in any case.
func KindNamed(word string) (Kind, bool) {
	k, ok := kindsByName()[word]
	if !ok {
		k, ok = kindsByName()[strings.ToLower(word)]
	}
	return k, ok
}

// kindsByName has each kind by its names, and as it is written in objects.
var kindsByName = sync.OnceValue(func() map[string]Kind {
	byName := map[string]Kind{}
	for _, k := range allKinds() {
		for _, n := range append(k.Names(), k.Kind) {
			if _, taken := byName[n]; !taken {
				byName[n] = k
			}
		}
	}
	return byName
})
