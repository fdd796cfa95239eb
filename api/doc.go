// Package api is the only door to a control plane for people: HTTP and JSON, the server and
// its client. Its one idea is that nothing is kept for show: objects come from the store, their
// status and every explanation are computed when asked for, by the functions that configure the
// proxies, over the world of this moment.
//
// It does not print for people (cli and console do), does not route between clusters (the
// local mesh's supervisor does) and gives nothing to proxies (xds does). Every request but the
// health check carries a token, and Host and Origin are checked, so that a web page in the
// user's browser reaches nothing (DNS rebinding, cross-site requests).
//
// Read Config and Server first, then Client; Explain is a function of its own.
package api
