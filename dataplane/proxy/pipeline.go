package proxy

// The order of stages. A request passes them from first to last; each states one fact
// that the next needs, or refuses.

// stage is one narrowing of a request.
type stage struct {
	name string
	run  func(*request) *refusal
}

// outbound is the client proxy's side.
var outbound = [...]stage{
	// Before all others, so that what they refuse is part of its trace too.
	{"continue the trace", (*request).trace},
	// Next, because every other stage asks what service this is.
	{"identify the service", (*request).identify},
	// Before anything is decided: what applications send under our own names is theirs
	// to lose, and what is not there yet, such as a request ID, must be the same for all tries.
	{"strip and complete the head", (*request).complete},
	// Before routes see the path, so that what is matched is what is forwarded. After the
	// service is known: a path that leaves the mesh is not ours to change.
	{"normalise the path", (*request).normalise},
	// Before routes, so that the whole service fails as the policy says, on what the application
	// sent.
	{"inject the service's faults", (*request).faultService},
	// On what the application sent, before filters change it.
	{"match a route", (*request).choose},
	// Before anything else is done for it: a preflight asks for leave and must have no effect.
	{"answer a preflight", (*request).preflight},
	// A redirect answers here; rewriting must precede the choice of backend's filters.
	{"apply the route's filters", (*request).filter},
	// One draw for the whole request: a retry stays with the backend that was drawn, so
	// that weights mean what they say.
	{"draw a backend", (*request).draw},
	// Where the route chose another service, that one's faults hold too.
	{"inject the backend's faults", (*request).faultBackend},
	// Now it is known whose limits hold, and nothing has been sent.
	{"hold the service's limits", (*request).breakCircuit},
	// Last: the loop over tries, each of which picks a cluster and an endpoint.
	{"forward", (*request).forward},
}

// inbound is the server proxy's side.
var inbound = [...]stage{
	// First, as above.
	{"continue the trace", (*request).trace},
	// The client proxy says what it wants; the connection says who it is and what name it
	// asked for. All three must agree before any is believed.
	{"check what is asked for", (*request).asked},
	// The path in the one form that the decision sees and the application gets; a client
	// proxy has done it, a client that is none has not.
	{"normalise the path", (*request).normalise},
	// Before the application or its limits see anything.
	{"authorise", (*request).authorise},
	// Before limits: what another endpoint will serve uses up nothing here.
	{"check the application's health", (*request).checkHealth},
	// After authorisation, so that who may not call uses up nothing of those who may, and before
	// anything is spent on the request.
	{"limit the rate", (*request).limitRate},
	{"hold the service's limits", (*request).holdLimits},
	// Last of the refusals: what is let in counts until it has ended.
	{"shed", (*request).shed},
	// After authorisation, so that nobody can write the caller's name but we.
	{"tell the caller", (*request).introduce},
	{"forward to the application", (*request).deliver},
}

// foreign is the server proxy's side for a proxy of another mesh, which speaks HBONE.
var foreign = [...]stage{
	// First, so that nothing below can meet what such a client says under our names.
	{"believe no field", (*request).disbelieve},
	// Before anything is read as what it is not.
	{"take connections only", (*request).connectsOnly},
	// No field says which service is meant: the authority does, and where the connection asked for a name both must agree.
	{"find what is named", (*request).named},
	// Before the application or its limits see anything.
	{"authorise", (*request).authoriseAll},
	// From here on as above. Nobody is told the caller: bytes have no fields.
	{"check the application's health", (*request).checkHealth},
	{"limit the rate", (*request).limitRate},
	{"hold the service's limits", (*request).holdLimits},
	{"shed", (*request).shed},
	{"forward to the application", (*request).deliver},
}
