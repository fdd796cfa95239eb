package mesh

// Reason says why a request was refused or failed: in the header isthmus-reason, in
// logs, metrics and spans. The list is closed; docs/reasons.md explains each.
type Reason string

// The reasons.
const (
	ReasonNone              Reason = ""
	ReasonMalformed         Reason = "malformed_request"     // 400: not a valid HTTP message
	ReasonHeadTooLarge      Reason = "head_too_large"        // 431
	ReasonUnknownHost       Reason = "unknown_host"          // 502: a name of the mesh that no service bears
	ReasonOutsideMesh       Reason = "outside_mesh"          // 502: not a name of the mesh and outbound is closed
	ReasonUnknownPort       Reason = "unknown_port"          // 502: the service has no such port
	ReasonNoRoute           Reason = "no_route"              // 404: routes are attached and none matches
	ReasonNoBackend         Reason = "no_backend"            // 500: the chosen backend does not exist (Gateway API)
	ReasonNoEndpoint        Reason = "no_endpoint"           // 503: no endpoint anywhere
	ReasonResidency         Reason = "residency"             // 503: lawful clusters have no endpoint left
	ReasonStale             Reason = "stale_cluster"         // 503: what is known of the clusters that are left is older than a policy bears
	ReasonUnreachable       Reason = "unreachable"           // 503: every candidate was tried or is unreachable
	ReasonConnectTimeout    Reason = "connect_timeout"       // 503
	ReasonTLS               Reason = "tls_failure"           // 503: the other side could not be verified
	ReasonReset             Reason = "upstream_reset"        // 502: broken after it may have been executed
	ReasonTimeout           Reason = "request_timeout"       // 504
	ReasonTryTimeout        Reason = "try_timeout"           // 504
	ReasonDenied            Reason = "access_denied"         // 403: a policy denies, or none allows
	ReasonPolicyInvalid     Reason = "policy_invalid"        // 403: a policy in force could not be understood
	ReasonMisdirected       Reason = "misdirected"           // 421: the server does not serve what was asked for
	ReasonAppUnreachable    Reason = "app_unreachable"       // 503: the server proxy could not reach its application, or it is unhealthy
	ReasonOverloaded        Reason = "overloaded"            // 503: shed
	ReasonNotReady          Reason = "proxy_not_ready"       // 503: no configuration yet
	ReasonBodyTooLarge      Reason = "body_too_large"        // 413
	ReasonUpgradeRefused    Reason = "upgrade_refused"       // 501: not supported here
	ReasonOwnFault          Reason = "own_fault"             // 503: this proxy's own certificate, clock or descriptors
	ReasonClientGone        Reason = "client_gone"           // no response: the client left
	ReasonDraining          Reason = "draining"              // 503: this proxy is leaving
	ReasonProtocol          Reason = "protocol_error"        // 502: the other side broke the protocol
	ReasonFaultInjected     Reason = "fault_injected"        // by a FaultPolicy
	ReasonRateLimited       Reason = "rate_limited"          // 429
	ReasonPolicyUnsupported Reason = "policy_not_understood" // 403: newer than this proxy
)

// Status is the HTTP status that a reason is answered with, 503 if it says nothing else.
func (r Reason) Status() int {
	switch r {
	case ReasonMalformed:
		return 400
	case ReasonDenied, ReasonPolicyInvalid, ReasonPolicyUnsupported:
		return 403
	case ReasonNoRoute:
		return 404
	case ReasonBodyTooLarge:
		return 413
	case ReasonMisdirected:
		return 421
	case ReasonRateLimited:
		return 429
	case ReasonHeadTooLarge:
		return 431
	case ReasonNoBackend:
		return 500
	case ReasonUpgradeRefused:
		return 501
	case ReasonUnknownHost, ReasonOutsideMesh, ReasonUnknownPort, ReasonReset, ReasonProtocol:
		return 502
	case ReasonTimeout, ReasonTryTimeout:
		return 504
	}
	return 503
}
