//house:exempt one table of field numbers and its two directions; a switch a message

package xds

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/isthmus-mesh/isthmus/core/skew"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The method that carries every stream (envoy/service/discovery/v3/ads.proto).
const (
	service  = "envoy.service.discovery.v3.AggregatedDiscoveryService"
	method   = "DeltaAggregatedResources"
	fullName = "/" + service + "/" + method
)

// Field numbers of envoy/service/discovery/v3/discovery.proto and what it refers to. The
// messages are read and written by hand: an acknowledgement is then parsed without an
// allocation, a response is made of pieces that all streams share, and a proxy does not
// link Envoy's generated types. Tests hold the two against each other.
const (
	reqNode, reqType, reqSubscribe, reqUnsubscribe, reqInitial, reqNonce, reqError = 1, 2, 3, 4, 5, 6, 7
	respVector, respResources, respType, respNonce, respRemoved, respControl       = 1, 2, 4, 5, 6, 7
	resVersion, resBody, resName                                                   = 1, 2, 3
	anyType, anyValue                                                              = 1, 2
	nodeID, nodeCluster, nodeMetadata, nodeLocality, nodeVersion, nodeFeatures     = 1, 2, 3, 4, 7, 10
	statusMessage, statusDetails                                                   = 2, 3
	infoName, infoDescription                                                      = 2, 4 // google.rpc.ResourceInfo
	localityZone                                                                   = 2
	valueString                                                                    = 3 // google.protobuf.Value
)

// complete is the identifier of the control plane in a response that completes what was
// asked for (Batch.Complete). The field is free text of which discovery says nothing.
const complete = "complete"

const resourceInfo = "type.googleapis.com/google.rpc.ResourceInfo"

// Bounds of what a peer may say.
const (
	// MaxMessage is the most that one message takes on the wire, in bytes.
	MaxMessage = 1 << 20
	maxName    = 1 << 10
	maxText    = 1 << 12
)

// refusal says why a client refused a resource.
type refusal struct{ name, message string }

// request is a DeltaDiscoveryRequest. The zero value is ready for use, and may be used
// again after reset.
type request struct {
	node                   *Node
	types                  int // that follow at once, of the first request; 0 is unknown
	typ                    string
	subscribe, unsubscribe []string
	initial                map[string]string // versions by name
	nonce                  string            // of a client
	answers                uint64            // the nonce as a server reads it; 0 is none
	nack                   bool
	message                string
	refused                []refusal
}

func (r *request) reset() {
	// The type stays, so that the next request of the same type needs no copy of it.
	clear(r.subscribe)
	clear(r.unsubscribe)
	*r = request{typ: r.typ, subscribe: r.subscribe[:0], unsubscribe: r.unsubscribe[:0]}
}

// response is a DeltaDiscoveryResponse as a client reads it.
type response struct {
	vector    mesh.Vector
	typ       string
	nonce     string
	resources []Resource
	removed   []string
	complete  bool
}

// codec is the encoding of grpc on these streams: our own messages by hand, anything
// else as gRPC does by default.
type codec struct{}

// Name implements encoding.CodecV2: on the wire it is protobuf.
func (codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2. The buffers of a frame are shared and never freed.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *frame:
		return v.buffers, nil
	case *request:
		return mem.BufferSlice{mem.SliceBuffer(v.append(nil))}, nil
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *request:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return v.parse(buf.ReadOnlyData())
	case *response:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return v.parse(buf.ReadOnlyData())
	}
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}

// eachField calls f with every length-delimited field and skips others.
func eachField(b []byte, f func(n protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := f(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// text is v as a string, if it is a lawful one of a bounded size.
func text(v []byte, what string, max int) (string, error) {
	if err := lawful(v, what, max); err != nil {
		return "", err
	}
	return string(v), nil
}

func lawful(v []byte, what string, max int) error {
	if len(v) > max || !utf8.Valid(v) {
		return fmt.Errorf("%s of %d bytes: want UTF-8 of at most %d", what, len(v), max)
	}
	return nil
}

// cut is v as a string, shortened and mended where it must be.
func cut(v []byte, max int) string {
	if len(v) > max {
		v = v[:max]
	}
	return strings.ToValidUTF8(string(v), "\uFFFD")
}

func (r *request) parse(b []byte) error {
	var whole string // b, of which names are parts: a first request has thousands of them
	names := func(to *[]string, v []byte) error {
		if whole == "" {
			whole = string(b)
		}
		at := cap(b) - cap(v) // v ends where b does
		return appendName(to, v, whole[at:at+len(v)])
	}
	err := eachField(b, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case reqNode:
			err = r.parseNode(v)
		case reqType:
			if string(v) != r.typ {
				r.typ, err = text(v, "type", maxName)
			}
		case reqSubscribe:
			err = names(&r.subscribe, v)
		case reqUnsubscribe:
			err = names(&r.unsubscribe, v)
		case reqInitial:
			err = r.parseInitial(v)
		case reqNonce:
			r.answers = parseNonce(v)
		case reqError:
			r.nack = true
			err = r.parseError(v)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read a discovery request: %w", err)
	}
	return nil
}

// appendName appends v, which is the same as name.
func appendName(to *[]string, v []byte, name string) error {
	if len(name) == 0 {
		return errNoName
	}
	*to = append(*to, name)
	return lawful(v, "resource name", maxName)
}

var errNoName = errors.New("a resource without a name")

// parseNonce reads a nonce of ours; any other is 0, which answers nothing.
func parseNonce(v []byte) uint64 {
	if len(v) == 0 || len(v) > 19 {
		return 0
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

func (r *request) parseInitial(b []byte) error {
	k, v, err := parseEntry(b)
	if err != nil {
		return err
	}
	name, err1 := text(k, "resource name", maxName)
	version, err2 := text(v, "resource version", maxName)
	if name == "" || name == Wildcard {
		return errors.Join(errNoName, err1)
	}
	if r.initial == nil {
		r.initial = map[string]string{}
	}
	r.initial[name] = version
	return errors.Join(err1, err2)
}

// parseEntry reads an entry of a map (protobuf encoding, "Maps").
func parseEntry(b []byte) (key, value []byte, err error) {
	err = eachField(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			key = v
		case 2:
			value = v
		}
		return nil
	})
	return key, value, err
}

// parseError reads a google.rpc.Status whose details may name the refused resources.
func (r *request) parseError(b []byte) error {
	return eachField(b, func(n protowire.Number, v []byte) error {
		switch n {
		case statusMessage:
			r.message = cut(v, maxText)
		case statusDetails:
			return r.parseDetail(v)
		}
		return nil
	})
}

func (r *request) parseDetail(b []byte) error {
	typ, value, err := parseEntry(b) // an Any has the shape of an entry
	if err != nil || string(typ) != resourceInfo {
		return err
	}
	var info refusal
	err = eachField(value, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case infoName:
			info.name, err = text(v, "resource name", maxName)
		case infoDescription:
			info.message = cut(v, maxText)
		}
		return err
	})
	r.refused = append(r.refused, info)
	return err
}

func (r *request) parseNode(b []byte) error {
	n := &Node{}
	r.node = n
	err := eachField(b, func(num protowire.Number, v []byte) (err error) {
		switch num {
		case nodeID:
			n.ID, err = text(v, "node ID", maxName)
		case nodeCluster:
			var c string
			c, err = text(v, "node cluster", maxName)
			n.Cluster = mesh.ClusterName(c)
		case nodeVersion:
			n.Version, err = text(v, "node version", maxName)
		case nodeFeatures:
			if len(n.Capabilities) < 64 {
				err = appendName(&n.Capabilities, v, string(v))
			}
		case nodeLocality:
			err = eachField(v, func(num protowire.Number, v []byte) (err error) {
				if num == localityZone {
					var z string
					z, err = text(v, "zone", maxName)
					n.Zone = mesh.Zone(z)
				}
				return err
			})
		case nodeMetadata:
			err = r.parseMetadata(v)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

// parseMetadata reads the entries of a google.protobuf.Struct that we know.
func (r *request) parseMetadata(b []byte) error {
	return eachField(b, func(_ protowire.Number, field []byte) error {
		key, value, err := parseEntry(field)
		if err != nil {
			return err
		}
		return eachField(value, func(num protowire.Number, v []byte) (err error) {
			if num != valueString {
				return nil
			}
			switch string(key) {
			case metadataMode:
				r.node.Mode, err = text(v, "mode", maxName)
			case metadataTypes:
				r.types = int(min(parseNonce(v), maxTypes))
			case metadataProtocols:
				r.node.Protocols = skew.ParseRange(cut(v, maxName))
			case metadataVector:
				if len(v) > MaxMessage/4 {
					return errors.New("revision vector: too long")
				}
				r.node.Vector, err = mesh.ParseVector(string(v))
			}
			return err
		})
	})
}

// Keys of a node's metadata.
const (
	// How many types the first requests of the stream ask for. A server that knows sends
	// nothing before it has seen them all: only then can it tell what refers to what.
	metadataTypes  = "isthmus.dev/types"
	metadataMode   = "isthmus.dev/mode"
	metadataVector = "isthmus.dev/vector"
	// Which protocols the node speaks, "MIN-MAX"; none is the first.
	metadataProtocols = "isthmus.dev/protocols"
)

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// appendString leaves out what is empty, as proto3 does.
func appendString(b []byte, n protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func appendEntry(b []byte, n protowire.Number, key, value []byte) []byte {
	return appendBytes(b, n, appendBytes(appendBytes(nil, 1, key), 2, value))
}

func (r *request) appendNode(b []byte) []byte {
	n, types, protocols := r.node, "", ""
	if r.types > 0 {
		types = strconv.Itoa(r.types)
	}
	if n.Protocols.Max >= protocolRanges {
		protocols = n.Protocols.String()
	}
	b = appendString(b, nodeID, n.ID)
	b = appendString(b, nodeCluster, string(n.Cluster))
	var meta []byte
	for _, kv := range [][2]string{{metadataMode, n.Mode}, {metadataTypes, types}, {metadataVector, n.Vector.String()}, {metadataProtocols, protocols}} {
		if kv[1] != "" {
			meta = appendEntry(meta, 1, []byte(kv[0]), appendString(nil, valueString, kv[1]))
		}
	}
	if meta != nil {
		b = appendBytes(b, nodeMetadata, meta)
	}
	if n.Zone != "" {
		b = appendBytes(b, nodeLocality, appendString(nil, localityZone, string(n.Zone)))
	}
	b = appendString(b, nodeVersion, n.Version)
	for _, c := range n.Capabilities {
		b = appendString(b, nodeFeatures, c)
	}
	return b
}

func (r *request) append(b []byte) []byte {
	if r.node != nil {
		b = appendBytes(b, reqNode, r.appendNode(nil))
	}
	b = appendString(b, reqType, r.typ)
	for _, name := range r.subscribe {
		b = appendString(b, reqSubscribe, name)
	}
	for _, name := range r.unsubscribe {
		b = appendString(b, reqUnsubscribe, name)
	}
	for name, version := range r.initial {
		b = appendEntry(b, reqInitial, []byte(name), []byte(version))
	}
	b = appendString(b, reqNonce, r.nonce)
	if r.nack {
		e := appendString(nil, statusMessage, r.message)
		for _, f := range r.refused {
			info := appendString(appendString(nil, infoName, f.name), infoDescription, f.message)
			e = appendEntry(e, statusDetails, []byte(resourceInfo), info)
		}
		b = appendBytes(b, reqError, e)
	}
	return b
}

// appendResource writes a resource of a response up to its body, which must follow.
func appendResource(b []byte, r *Resource) []byte {
	body := protowire.SizeTag(anyValue) + protowire.SizeBytes(len(r.Body))
	anySize := sizeString(anyType, r.Type) + body
	size := sizeString(resName, r.Name) + sizeString(resVersion, r.Version) + protowire.SizeTag(resBody) + protowire.SizeBytes(anySize)
	b = protowire.AppendTag(b, respResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendString(b, resName, r.Name)
	b = appendString(b, resVersion, r.Version)
	b = protowire.AppendTag(b, resBody, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anySize))
	b = appendString(b, anyType, r.Type)
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(r.Body)))
}

func sizeString(n protowire.Number, v string) int {
	if v == "" {
		return 0
	}
	return protowire.SizeTag(n) + protowire.SizeBytes(len(v))
}

// appendHeader writes all of a response but its resources.
func appendHeader(b []byte, vector, typ string, nonce uint64, removed []string, whole bool) []byte {
	b = appendString(b, respVector, vector)
	b = appendString(b, respType, typ)
	b = appendString(b, respNonce, strconv.FormatUint(nonce, 10))
	for _, name := range removed {
		b = appendString(b, respRemoved, name)
	}
	if whole {
		b = appendBytes(b, respControl, appendString(nil, 1, complete))
	}
	return b
}

func (r *response) parse(b []byte) error {
	*r = response{}
	err := eachField(b, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case respVector:
			r.vector, err = mesh.ParseVector(string(v))
		case respType:
			r.typ, err = text(v, "type", maxName)
		case respNonce:
			r.nonce, err = text(v, "nonce", maxName)
		case respRemoved:
			err = appendName(&r.removed, v, string(v))
		case respControl:
			var id []byte
			id, _, err = parseEntry(v)
			r.complete = string(id) == complete
		case respResources:
			err = r.parseResource(v)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read a discovery response: %w", err)
	}
	for i := range r.resources {
		r.resources[i].Type = r.typ
	}
	return nil
}

func (r *response) parseResource(b []byte) error {
	var res Resource
	err := eachField(b, func(n protowire.Number, v []byte) (err error) {
		switch n {
		case resName:
			res.Name, err = text(v, "resource name", maxName)
		case resVersion:
			res.Version, err = text(v, "resource version", maxName)
		case resBody:
			_, body, e := parseEntry(v) // an Any has the shape of an entry
			res.Body, err = append([]byte{}, body...), e
		}
		return err
	})
	r.resources = append(r.resources, res)
	return err
}
