// Package manifest reads Kubernetes-shaped YAML and JSON into the values of package
// mesh, and prints objects back.
//
// Its one idea: every value keeps the place it was written at. YAML and JSON become
// one tree of positioned values; one decoder fills plain Go structs from it, guided
// by the field tags json (the name) and is (what the field may hold); converters
// check what spans fields and report by path. A fault therefore always names file,
// line, column, object and field, says what is wrong and what to write instead, and
// all faults of an input are reported at once.
//
// The structs are our own, with the fields of the upstream types and nothing else:
// linking k8s.io/api and sigs.k8s.io/gateway-api costs 7 MB of binary and 6 MB of
// memory in every sidecar, because a sidecar is this same binary. A test compares
// the field sets with the upstream types.
//
// Scalars mean what they mean to kubectl (YAML 1.1: a bare yes is a boolean, 0644
// is octal), so that a file does not change its meaning between Kubernetes and the
// standalone store. A number where text is wanted is a fault, as it is there.
//
// The package deliberately does not resolve references between objects, does not
// read files named by other files, writes nothing and logs nothing.
//
// Read Parse first, then Object and Fault.
package manifest
