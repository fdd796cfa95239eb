package telemetry

import (
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Entry is what is told of one request beyond what is counted: a line of the access log, and a span.
// Its byte slices are the caller's.
type Entry struct {
	Edge
	Start                           time.Time
	Duration                        time.Duration
	Proxy                           string
	Method, Host, Path, RequestID   []byte
	Port                            uint16
	Route, Endpoint, Policy, Detail string
	// Fallback says what answered in the service's place.
	Fallback                    string
	Tries                       int
	RequestBytes, ResponseBytes int64
	Tunnel                      bool
	TraceID                     [16]byte
	SpanID, ParentID            [8]byte
}

// side is the proxy's side as people say it.
func (e *Entry) side() string {
	if e.Reporter == "destination" {
		return "inbound"
	}
	return "outbound"
}

// AppendJSON appends the entry as one line of JSON. It allocates nothing but room in b.
func (e *Entry) AppendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	b = field(b, "proxy", e.Proxy)
	b = field(b, "side", e.side())
	b = field(b, "method", e.Method)
	b = field(b, "host", e.Host)
	b = field(b, "path", e.Path)
	b = field(b, "protocol", string(e.Protocol))
	b = number64(b, "status", int64(e.Code))
	b = field(b, "reason", string(e.Reason))
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(e.Duration)/1e6, 'f', 3, 64)
	b = number64(b, "request_bytes", e.RequestBytes)
	b = number64(b, "response_bytes", e.ResponseBytes)
	b = field(b, "source_workload", e.SourceWorkload)
	b = field(b, "source_namespace", e.SourceNamespace)
	b = field(b, "source_cluster", string(e.SourceCluster))
	b = field(b, "destination_service", e.DestinationService)
	b = field(b, "destination_namespace", e.DestinationNamespace)
	b = field(b, "destination_cluster", string(e.DestinationCluster))
	b = number64(b, "port", int64(e.Port))
	b = optional(b, "endpoint", e.Endpoint)
	b = optional(b, "route", e.Route)
	b = optional(b, "policy", e.Policy)
	b = optional(b, "fallback", e.Fallback)
	if e.Tries > 1 {
		b = number64(b, "tries", int64(e.Tries))
	}
	b = field(b, "request_id", e.RequestID)
	if e.TraceID != [16]byte{} {
		b = append(b, `,"trace_id":"`...)
		b = hex.AppendEncode(b, e.TraceID[:])
		b = append(b, `","span_id":"`...)
		b = hex.AppendEncode(b, e.SpanID[:])
		b = append(b, '"')
	}
	b = optional(b, "error", e.Detail)
	return append(b, "}\n"...)
}

func optional(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	return field(b, name, v)
}

func number64(b []byte, name string, v int64) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, v, 10)
}

func field[T string | []byte](b []byte, name string, v T) []byte {
	b = append(append(append(b, `,"`...), name...), `":"`...)
	return append(quoted(b, v), '"')
}

// quoted appends v with what JSON does not take in a string escaped (RFC 8259 §7); bytes that are no
// UTF-8 become U+FFFD.
func quoted[T string | []byte](b []byte, v T) []byte {
	const digits = "0123456789abcdef"
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			var four [utf8.UTFMax]byte
			r, n := utf8.DecodeRune(four[:copy(four[:], v[i:])])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		i++
	}
	return b
}

// AppendText appends the entry as one line for people: what is not there is "-", and what a client
// wrote is quoted.
func (e *Entry) AppendText(b []byte) []byte {
	b = e.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(append(append(b, ' '), e.side()...), ` "`...)
	b = append(quoted(b, e.Method), ' ')
	b = append(quoted(b, e.Host), ' ')
	b = append(quoted(b, e.Path), `" `...)
	b = append(strconv.AppendInt(b, int64(e.Code), 10), ' ')
	b = append(append(b, dash(string(e.Reason))...), ' ')
	b = append(strconv.AppendFloat(b, float64(e.Duration)/1e6, 'f', 3, 64), "ms "...)
	b = append(strconv.AppendInt(b, e.RequestBytes, 10), '/')
	b = append(strconv.AppendInt(b, e.ResponseBytes, 10), ' ')
	b = place(b, e.SourceWorkload, e.SourceNamespace, e.SourceCluster)
	b = append(b, " > "...)
	b = place(b, e.DestinationService, e.DestinationNamespace, e.DestinationCluster)
	b = append(append(append(b, ' '), dash(e.Endpoint)...), " \""...)
	b = append(quoted(b, e.RequestID), '"')
	if e.Fallback != "" {
		b = append(append(b, " instead: "...), e.Fallback...)
	}
	if e.Detail != "" {
		b = append(quoted(append(b, ` "`...), e.Detail), '"')
	}
	return append(b, '\n')
}

func place(b []byte, name, namespace string, cluster mesh.ClusterName) []byte {
	b = append(append(append(b, dash(name)...), '.'), dash(namespace)...)
	return append(append(b, '@'), dash(string(cluster))...)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
