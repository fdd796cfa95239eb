// Package wirepb is generated from the protobuf files of isthmus/v1 (make generate): the shapes on the wire, which codec/wire
// translates.
package wirepb
