package route_test

import (
	"bytes"
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/route"
)

func TestNormalPath(t *testing.T) {
	for in, want := range map[string]string{
		"/": "/", "*": "*", "/a/b": "/a/b", "/a?x=/../%2F": "/a?x=/../%2F", "/a//b///c": "/a/b/c", "//": "/", "/a/": "/a/",
		"/a/./b": "/a/b", "/a/.": "/a/", "/a/../b": "/b", "/a/b/..": "/a/", "/a/b/../": "/a/", "/a/..": "/", "/..a/.b": "/..a/.b",
		"/%61dmin": "/admin", "/%2e/a": "/a", "/a/%2E%2e/b": "/b", "/%c3%a9": "/%C3%A9", "/a%20b?q": "/a%20b?q", "/%252F": "/%252F",
		"/a;x=1/b": "/a;x=1/b", "/...;": "/...;",
		// Refused.
		"": "", "a": "", "/%2F": "", "/%5c": "", "/%00": "", "/a\\b": "", "/%": "", "/%4": "", "/%zz": "", "/..": "", "/a/../../b": "",
		"/..;/admin": "", "/.;x": "", "/%2e%2e;/a": "", "/é": "", "/a b": "", "/a#b": "",
	} {
		got, problem := route.NormalPath([]byte(in))
		if string(got) != want || (problem == "") != (want != "") {
			t.Errorf("%q became %q (%s), want %q", in, got, problem, want)
		}
	}
}

// FuzzNormalPath: a normal form is its own normal form, is never longer, and holds nothing
// that servers read in two ways.
func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e/x", "/a//b?c", "/%c3", "/..;/"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, problem := route.NormalPath(bytes.Clone(in))
		if problem != "" {
			return
		}
		again, problem := route.NormalPath(bytes.Clone(got))
		if problem != "" || !bytes.Equal(got, again) || len(got) > len(in) {
			t.Fatalf("%q became %q, and that %q (%s)", in, got, again, problem)
		}
		path, _, _ := bytes.Cut(got, []byte("?"))
		for _, bad := range []string{"//", "/./", "/../", "\\", "%2F", "%2f", "%5C", "%00"} {
			if bytes.Contains(path, []byte(bad)) {
				t.Fatalf("%q became %q, which holds %s", in, got, bad)
			}
		}
		if bytes.HasSuffix(path, []byte("/..")) || bytes.HasSuffix(path, []byte("/.")) {
			t.Fatalf("%q became %q", in, got)
		}
	})
}
