//house:exempt a parser: a fallback, field by field

package manifest

import (
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// criticalities are what the words of policies mean.
var criticalities = map[string]mesh.Criticality{"CriticalPlus": mesh.CriticalPlus, "Critical": mesh.Critical,
	"SheddablePlus": mesh.SheddablePlus, "Sheddable": mesh.Sheddable}

// fallbackOn is a condition, or a status as a number or text.
type fallbackOn string

var fallbackConditions = []string{"no-endpoint", "overloaded", "timeout", "reset", "5xx", "gateway-error"}

func (x *fallbackOn) decodeValue(d *decoder, v *value, p *path) {
	if condition(d, v, p, fallbackConditions, 500, "answered in another's place") {
		*x = fallbackOn(v.text)
	}
}

func (s *scope) fallback(in *fallback, at *path) *mesh.Fallback {
	if in == nil {
		return nil
	}
	out := &mesh.Fallback{AnyMethod: in.AnyMethod}
	switch b2i(in.Static != nil) + b2i(in.Service != nil) + b2i(in.Cache != nil) + b2i(in.None) {
	case 0:
		s.fault(at, "says nothing", "write one of static, service, cache or none")
	case 1:
	default:
		s.fault(at, "says several things", "leave one of static, service, cache and none")
	}
	for i, on := range in.Conditions {
		if contains(out.On, string(on)) {
			s.fault(at.field("conditions").item(i), quote(string(on))+" is a duplicate", "remove one of the two")
		}
		out.On = append(out.On, string(on))
	}
	switch {
	case in.Static != nil:
		out.Static = s.staticAnswer(in.Static, at.field("static"))
	case in.Service != nil:
		o := in.Service
		b := s.backendObject(backendObjectRef{objectReference{o.Group, o.Kind, o.Name, o.Namespace}, o.Port}, at.field("service"))
		out.Service = &mesh.FallbackService{Kind: b.Kind, Service: b.Service, Port: b.Port}
	case in.Cache != nil:
		out.Cache = &mesh.StaleCache{MaxStale: duration(in.Cache.MaxStale)}
		s.above(at.field("cache", "maxStale"))
		if in.AnyMethod {
			s.fault(at.field("anyMethod"), "with cache, which answers GET and HEAD alone", "remove it")
		}
	case in.None && (in.AnyMethod || len(in.Conditions) > 0):
		s.fault(at.field("none"), "with conditions of what is taken away", "remove all but none")
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unsayable are fields that a static answer cannot have: what frames a message and what speaks of its connection is the
// engine's (RFC 9110 §7.6.1), and what it is has a place of its own.
var unsayable = map[string]string{"content-type": "write contentType beside headers", "content-length": "remove it: it follows from the body",
	"transfer-encoding": "remove it", "connection": "remove it", "keep-alive": "remove it", "proxy-connection": "remove it", "te": "remove it",
	"trailer": "remove it", "upgrade": "remove it", "date": "remove it"}

func (s *scope) staticAnswer(in *staticAnswer, at *path) *mesh.StaticAnswer {
	out := &mesh.StaticAnswer{Status: in.Status, ContentType: in.ContentType, Body: in.Body}
	if out.Status == 0 {
		out.Status = 200
	}
	for i, h := range in.Headers {
		name, p := strings.ToLower(h.Name), at.field("headers").item(i)
		s.unreserved(name, p.field("name"))
		if remedy := unsayable[name]; remedy != "" {
			s.fault(p.field("name"), quote(h.Name)+" is not for a policy to say", remedy)
		}
		s.fieldValue(h.Value, p.field("value"))
		out.Headers = append(out.Headers, mesh.HeaderValue{Name: name, Value: h.Value})
	}
	s.fieldValue(in.ContentType, at.field("contentType"))
	if bodiless := out.Status == 204 || out.Status == 205 || out.Status == 304; bodiless && in.Body != "" {
		s.fault(at.field("body"), "with a status that has none (RFC 9110 §6.4.1)", "remove it, or write another status")
	}
	switch {
	case in.Body == "" && in.ContentType != "":
		s.fault(at.field("contentType"), "of no body", "write a body, or remove it")
	case in.Body != "" && in.ContentType == "":
		out.ContentType = "text/plain; charset=utf-8"
	}
	return out
}

// fieldValue checks the value of a field (RFC 9110 §5.5): no control characters, no space at its ends.
func (s *scope) fieldValue(v string, at *path) {
	if strings.TrimSpace(v) != v || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		s.fault(at, "not the value of a field", "write one line without space at its ends")
	}
}
