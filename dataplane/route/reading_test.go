package route

import (
	"bytes"
	"net/url"
	"path"
	"strings"
	"testing"
)

// readers are what applications make of the path of a request before they choose what to do.
var readers = map[string]func(string) string{
	"decodes, then resolves": func(p string) string {
		if u, err := url.PathUnescape(p); err == nil {
			p = u
		}
		return path.Clean(p)
	},
	"resolves, then decodes": func(p string) string {
		p = path.Clean(p)
		if u, err := url.PathUnescape(p); err == nil {
			p = u
		}
		return p
	},
	"cuts parameters off first": func(p string) string {
		segments := strings.Split(p, "/")
		for i, s := range segments {
			segments[i], _, _ = strings.Cut(s, ";")
		}
		return path.Clean(strings.Join(segments, "/"))
	},
	"takes a backslash for a slash": func(p string) string {
		if u, err := url.PathUnescape(p); err == nil {
			p = u
		}
		return path.Clean(strings.ReplaceAll(p, `\`, "/"))
	},
	"ends at a NUL": func(p string) string {
		if u, err := url.PathUnescape(p); err == nil {
			p = u
		}
		p, _, _ = strings.Cut(p, "\x00")
		return path.Clean(p)
	},
	"takes it as it comes": func(p string) string { return p },
}

// otherwise returns the paths that a policy does not take for /admin, in the form that normal gives, and that some application
// that is given this form does: as "path: who".
func otherwise(normal func([]byte) ([]byte, string)) (attacks []string) {
	below := func(p string) bool { return p == "/admin" || strings.HasPrefix(p, "/admin/") }
	for _, in := range []string{"/admin", "/admin/keys", "//admin", "/a/../admin", "/./admin", "/a//../admin", "/%61dmin", "/a/%2e%2e/admin", "/%2E/admin", "/a/..%2fadmin",
		"/%2Fadmin", "/a%5c..%5cadmin", `/a\..\admin`, `/\admin`, "/admin%00.png", "/a/..;/admin", "/a/%2e%2e;x/admin", "/.;/admin", "/a/b/../../admin", "/../admin",
		"/a/%2e./%61dmin", "/%61dmin/", "/a", "/adm", "/administrator"} {
		got, problem := normal([]byte(in))
		if problem != "" || below(string(got)) {
			continue // it is refused, or the policy sees it
		}
		for who, read := range readers {
			if below(read(string(got))) {
				attacks = append(attacks, in+": "+who)
			}
		}
	}
	return attacks
}

// TestNoApplicationReadsANormalPathOtherwise: what a policy does not take for /admin no application does, in whatever way it
// reads. The controls are normalisers that lack a step.
func TestNoApplicationReadsANormalPathOtherwise(t *testing.T) {
	if attacks := otherwise(NormalPath); len(attacks) > 0 {
		t.Errorf("read otherwise: %q", attacks)
	}
	decoded := func(p []byte) ([]byte, string) {
		n, problem := decode(p)
		return p[:n], problem
	}
	resolved := func(p []byte) ([]byte, string) {
		n, problem := resolve(p)
		return p[:n], problem
	}
	for name, c := range map[string]struct {
		normal func([]byte) ([]byte, string)
		attack string // one that must be among them
	}{
		"as it came":                    {func(p []byte) ([]byte, string) { return p, "" }, "/a/../admin: decodes, then resolves"},
		"decoded, and not resolved":     {decoded, "/a/%2e%2e/admin: resolves, then decodes"},
		"resolved, and not decoded":     {resolved, "/%61dmin: decodes, then resolves"},
		"resolved before it is decoded": {func(p []byte) ([]byte, string) { p, _ = resolved(p); return decoded(p) }, "/a/%2e%2e/admin: decodes, then resolves"},
		"with its backslashes":          {func(p []byte) ([]byte, string) { return hidden(p, `\`) }, `/a\..\admin: takes a backslash for a slash`},
		"with its parameters":           {func(p []byte) ([]byte, string) { return hidden(p, ";") }, "/a/..;/admin: cuts parameters off first"},
	} {
		t.Run(name, func(t *testing.T) {
			attacks := strings.Join(otherwise(c.normal), "\n")
			if !strings.Contains(attacks, c.attack) {
				t.Errorf("control: %q does not succeed without the step, only:\n%s", c.attack, attacks)
			}
		})
	}
}

// hidden is NormalPath to which one character is like any other.
func hidden(p []byte, c string) ([]byte, string) {
	got, problem := NormalPath(bytes.ReplaceAll(p, []byte(c), []byte("~")))
	return bytes.ReplaceAll(got, []byte("~"), []byte(c)), problem
}
