// Package foreign runs the test suites of other projects against ours: what they call
// correct is not ours to decide.
//
// Its one idea is that such a suite is a pinned dependency like any other. tools/go.mod names its
// version, the go command builds it when it is first asked for and keeps it in its
// cache, and a test that needs one never skips.
//
// It is for tests only and judges nothing itself. Read Tool, then H2Spec.
package foreign

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// buildTime bounds the first build of a suite on a machine that has none of it cached.
const buildTime = 10 * time.Minute

// Tool returns the path of a program that tools/go.mod lists as a tool.
func Tool(t testing.TB, importPath string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), buildTime)
	defer stop()
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("find the module: %v", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile="+filepath.Join(root, "tools", "go.mod"), "-n", importPath)
	cmd.Dir = root
	var fault strings.Builder
	cmd.Stderr = &fault
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build %s: %v\n%s", importPath, err, fault.String())
	}
	return strings.TrimSpace(string(out))
}

// h2specAll is what h2spec says when every one of its cases passed.
var h2specAll = regexp.MustCompile(`146 tests, 146 passed, 0 skipped, 0 failed`)

// H2Spec runs all cases of h2spec, strict ones included, against the HTTP/2 server at addr, which
// takes connections in the clear with prior knowledge (RFC 9113 §3.3) and answers GET and POST
// of "/" with a body. More flags of h2spec may say otherwise, such as -t for TLS and -k for a certificate of nobody.
func H2Spec(t testing.TB, addr string, flags ...string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	bin := Tool(t, "github.com/summerwind/h2spec/cmd/h2spec")
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	out, err := exec.CommandContext(ctx, bin, append([]string{"--strict", "-h", host, "-p", port, "-o", "2"}, flags...)...).CombinedOutput()
	if err != nil || !h2specAll.Match(out) {
		t.Errorf("h2spec against %s: %v\n%s", addr, err, failures(string(out)))
	}
}

// failures is the part of h2spec's report that tells what failed, or all of it.
func failures(report string) string {
	if i := strings.Index(report, "Failures:"); i >= 0 {
		return report[i:]
	}
	return report
}
