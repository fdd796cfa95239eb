package proxy

import (
	"bytes"
	"io"
	"strconv"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// gRPC is HTTP/2 with a status of its own in the trailers (the gRPC project's "gRPC over
// HTTP2"). A client of it is told in that status why this mesh refused, so that its
// program sees a code and a message and not a broken stream.

// grpcClient reports whether the own application asks, and asks in gRPC. Between proxies a
// refusal stays as it is: the client proxy decides on it before it translates it.
func (r *request) grpcClient() bool {
	return !r.rec.Inbound && r.head.HTTP2 && message.IsGRPC(r.head.Get("content-type"))
}

// grpcCode is what a refusal is in gRPC: by its status, unless the reason says more.
func grpcCode(reason mesh.Reason, status int) int {
	switch reason {
	case mesh.ReasonTimeout, mesh.ReasonTryTimeout:
		return message.GRPCDeadlineExceeded
	case mesh.ReasonBodyTooLarge, mesh.ReasonHeadTooLarge:
		return message.GRPCResourceExhausted
	}
	return message.GRPCCode(status)
}

// grpcMessageMax bounds grpc-message, in octets before they are escaped.
const grpcMessageMax = 1 << 10

// refuseGRPC answers with a status in one head that ends the stream ("Trailers-Only").
func (r *request) refuseGRPC(ref *refusal) {
	h := &r.reply
	h.Reset()
	h.Status, h.Length = 200, message.LengthUnknown
	h.Add("content-type", "application/grpc")
	code := ref.grpc
	if code == 0 {
		code = grpcCode(ref.reason, ref.status)
	}
	r.scratch = strconv.AppendInt(r.scratch[:0], int64(code), 10)
	addBytes(h, "grpc-status", r.scratch)
	text := string(ref.reason) + ": " + ref.detail
	r.scratch = message.AppendGRPCMessage(r.scratch[:0], text[:min(len(text), grpcMessageMax)])
	addBytes(h, "grpc-message", r.scratch)
	if ref.reason != mesh.ReasonNone {
		h.Add(FieldReason, string(ref.reason))
	}
	addBytes(h, FieldRequestID, r.rec.RequestID)
	r.ex.SetDeadline(r.proxy.cfg.Now().Add(answerTime))
	if err := r.ex.Respond(h, true); err != nil {
		r.ex.Abort(err)
		return
	}
	r.clean = r.body.read
}

// translate turns an answer that the client could not read into a refusal that it can. Such
// are the server proxy's own to a client of gRPC, and a 2xx that an application gives to an
// upgrade without switching: in HTTP/2 that would grant it (RFC 8441 §5).
func (r *request) translate(s message.Stream, end bool) *refusal {
	if r.rec.Inbound || !r.head.HTTP2 {
		return nil
	}
	if len(r.head.Upgrade) > 0 && r.reply.Status/100 == 2 {
		return refuse(mesh.ReasonUpgradeRefused, "the application answered "+strconv.Itoa(r.reply.Status)+" without switching to "+string(r.head.Upgrade))
	}
	why := r.reply.Get(FieldReason)
	if why == nil || !r.trusted || !r.grpcClient() {
		return nil
	}
	ref := &refusal{status: r.reply.Status, reason: mesh.Reason(why)}
	if !end {
		r.moving()
		text := make([]byte, grpcMessageMax)
		n, _ := io.ReadFull(s, text) // as far as it came
		text = bytes.TrimPrefix(text[:n], append(why[:len(why):len(why)], ": "...))
		ref.detail = string(bytes.TrimRight(text, "\n"))
	}
	return ref
}
