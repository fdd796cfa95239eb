package route

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// The CORS protocol (Fetch standard, §3.2), as Gateway API's HTTPCORSFilter configures it. A
// browser asks before it lets a page of one origin do to another what a form cannot; the mesh's
// answer is the policy's, and the application's own is replaced, so that there is one authority.

const (
	fieldOrigin        = "origin"
	fieldAllowOrigin   = "access-control-allow-origin"
	fieldAllowCreds    = "access-control-allow-credentials"
	fieldAllowMethods  = "access-control-allow-methods"
	fieldAllowHeaders  = "access-control-allow-headers"
	fieldExpose        = "access-control-expose-headers"
	fieldMaxAge        = "access-control-max-age"
	fieldAskedMethod   = "access-control-request-method"
	fieldAskedHeaders  = "access-control-request-headers"
	varyPreflight      = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
	statusPreflight    = 204 // an "ok status" (§3.2.4) that has no body
	everything         = "*"
	allowCredentialsIs = "true" // case-sensitive (§3.2.3)
)

// PreflightMethod is the method that a CORS-preflight request (Fetch standard §3.2.2) is made
// for; nil if h is none.
func PreflightMethod(h *message.Head) []byte {
	if string(h.Method) != "OPTIONS" || !h.Has(fieldOrigin) {
		return nil
	}
	return h.Get(fieldAskedMethod)
}

// Preflight writes the answer to a preflight into out. Where the origin may not ask, the
// answer has no field of CORS, which is a no.
func Preflight(out, req *message.Head, c *mesh.CORS) {
	out.Reset()
	out.Status = statusPreflight
	out.Add("vary", varyPreflight)
	origin := allowedOrigin(req, c)
	if origin == nil {
		return
	}
	allow(out, origin, c)
	asked := req.Get(fieldAskedHeaders)
	list(out, fieldAllowMethods, c.AllowMethods, c.AllowCredentials, req.Get(fieldAskedMethod))
	list(out, fieldAllowHeaders, c.AllowHeaders, c.AllowCredentials, asked)
	if c.MaxAge > 0 {
		out.Add(fieldMaxAge, strconv.FormatInt(int64(c.MaxAge/time.Second), 10))
	}
}

// Share adds the fields of CORS to the answer to an actual request. req is what was asked.
func Share(out, req *message.Head, c *mesh.CORS) {
	for _, name := range [...]string{fieldAllowOrigin, fieldAllowCreds, fieldExpose} {
		out.Del(name)
	}
	if !anyOrigin(c) || c.AllowCredentials {
		out.Add("vary", "Origin") // what a cache keeps for one origin is not for another (§3.2.5)
	}
	origin := allowedOrigin(req, c)
	if origin == nil {
		return
	}
	exposed := len(out.Fields)
	allow(out, origin, c)
	switch {
	case len(c.ExposeHeaders) == 0:
	case c.ExposeHeaders[0] != everything || !c.AllowCredentials:
		out.Add(fieldExpose, strings.Join(c.ExposeHeaders, ", "))
	default: // "*" means nothing to a request with credentials (§3.2.3): all are named
		var names []string
		for i := range exposed {
			names = append(names, string(out.Fields[i].Name))
		}
		out.Add(fieldExpose, strings.Join(names, ", "))
	}
}

// allow says which origin may read the answer. "*" is not allowed beside credentials
// (§3.2.5), then it is the origin that asked.
func allow(out *message.Head, origin []byte, c *mesh.CORS) {
	if anyOrigin(c) && !c.AllowCredentials {
		out.Add(fieldAllowOrigin, everything)
		return
	}
	out.Fields = append(out.Fields, message.Field{Name: out.KeepString(fieldAllowOrigin), Value: out.Keep(origin)})
	if c.AllowCredentials {
		out.Add(fieldAllowCreds, allowCredentialsIs)
	}
}

// list adds what is allowed; where "*" means nothing, because of credentials, what was asked for.
func list(out *message.Head, name string, allowed []string, credentials bool, asked []byte) {
	switch {
	case len(allowed) == 0:
	case allowed[0] != everything || !credentials:
		out.Add(name, strings.Join(allowed, ", "))
	case len(asked) > 0:
		out.Fields = append(out.Fields, message.Field{Name: out.KeepString(name), Value: out.Keep(asked)})
	}
}

func anyOrigin(c *mesh.CORS) bool { return len(c.AllowOrigins) > 0 && c.AllowOrigins[0] == everything }

// allowedOrigin is the origin of the request if it may read the answer; of several none may.
func allowedOrigin(req *message.Head, c *mesh.CORS) []byte {
	var origin []byte
	for i := range req.Fields {
		if f := &req.Fields[i]; string(f.Name) == fieldOrigin {
			if origin != nil {
				return nil
			}
			origin = f.Value
		}
	}
	if len(origin) == 0 {
		return nil
	}
	for _, pattern := range c.AllowOrigins {
		if pattern == everything || matchesOrigin(origin, pattern) {
			return origin
		}
	}
	return nil
}

// matchesOrigin compares a serialised origin with scheme://host[:port], of which the host may
// begin with "*", which stands for one label or more. Browsers send scheme and host in lower case;
// others' spelling does not count.
func matchesOrigin(origin []byte, pattern string) bool {
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return bytes.EqualFold(origin, []byte(pattern))
	}
	if len(origin) <= len(before)+len(after) || !strings.EqualFold(view(origin[:len(before)]), before) ||
		!strings.EqualFold(view(origin[len(origin)-len(after):]), after) {
		return false
	}
	for _, c := range origin[len(before) : len(origin)-len(after)] { // the labels, no port and no other host
		if c != '.' && c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}
