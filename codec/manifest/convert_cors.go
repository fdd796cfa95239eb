package manifest

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// corsMaxAge is the API's default of maxAge.
const corsMaxAge = 5 * time.Second

// cors reads a CORS filter. Origins are brought into the form in which browsers send them:
// lower case, no default port (Fetch §3.1, HTML "ASCII serialisation of an origin").
func (s *scope) cors(in *corsFilter, at *path) *mesh.CORS {
	out := &mesh.CORS{AllowCredentials: in.AllowCredentials != nil && *in.AllowCredentials, AllowMethods: in.AllowMethods,
		AllowHeaders: lowerAll(in.AllowHeaders), ExposeHeaders: lowerAll(in.ExposeHeaders), MaxAge: time.Duration(in.MaxAge) * time.Second}
	if in.MaxAge == 0 {
		out.MaxAge = corsMaxAge
	}
	for i, o := range in.AllowOrigins {
		normal, ok := origin(o)
		if !ok {
			s.fault(at.field("allowOrigins").item(i), quote(o)+" is not an origin", "write SCHEME://HOST or SCHEME://HOST:PORT with http or https and no path, *. before the host for all below it, or * alone for every origin")
		}
		out.AllowOrigins = append(out.AllowOrigins, normal)
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"allowOrigins", in.AllowOrigins}, {"allowMethods", in.AllowMethods}, {"allowHeaders", in.AllowHeaders}} {
		if len(l.list) > 1 && contains(l.list, "*") {
			s.fault(at.field(l.name), "* beside other values", "write * alone, or remove it")
		}
	}
	return out
}

func lowerAll(list []string) []string {
	var out []string
	for _, t := range list {
		out = append(out, strings.ToLower(t))
	}
	return out
}

// origin reads an origin or a pattern of origins (Gateway API CORSOrigin).
func origin(s string) (normal string, ok bool) {
	if s == "*" {
		return s, true
	}
	s = strings.ToLower(s)
	scheme, host, ok := strings.Cut(s, "://")
	standard := map[string]string{"http": "80", "https": "443"}[scheme]
	if !ok || standard == "" {
		return s, false
	}
	if h, port, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return s, false
		}
		if host = h; port != standard {
			s = scheme + "://" + h + ":" + strconv.FormatUint(n, 10)
		} else {
			s = scheme + "://" + h
		}
	}
	return s, host == "*" || mesh.IsSubdomain(strings.TrimPrefix(host, "*."))
}
