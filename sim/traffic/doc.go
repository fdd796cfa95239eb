// Package traffic is a discrete-event simulator of requests in a mesh: regions, proxies,
// endpoints with lanes and queues, links, faults, on virtual time. Its one idea is that the mesh in
// it is the product: requests are spread and sent by core/split and core/balance as proxies and control
// planes link them, and only the world around them is a model. What others do (Istio's locality
// failover, L3, waterfall, P2C over everything) and what nobody can do (the oracles) stand beside it in
// the same world, with the same arrivals and the same work.
//
// A run is a pure function of a scenario, a policy and a seed: the same three give the same requests in
// the same order. Arrivals and the work of each request are drawn from streams of their own, so that
// policies of one seed are compared on the same requests.
//
// A service may call others for each of its requests: each of them is a world of its own, on the same time, with
// policies of its own; a tree of them is crossed by one request.
//
// It models no bytes, no CPU of proxies and no TLS; connections exist only in that a path that is silent is noticed. Read Scenario in codec/manifest, then Run, then world.
package traffic
