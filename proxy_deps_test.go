package isthmus

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// proxyDeps is the committed list of what isthmus-proxy links beside the standard library and our own
// packages, which have laws of their own: a
// dependency that comes by way of another is seen in review, with what it costs each sidecar.
const proxyDeps = "testdata/proxy-deps.txt"

// TestProxyLinksWhatIsCommitted compares it with the build. To accept a change on purpose:
//
//	ISTHMUS_UPDATE_DEPS=1 go test -run TestProxyLinksWhatIsCommitted .
func TestProxyLinksWhatIsCommitted(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/isthmus-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list dependencies of cmd/isthmus-proxy: %v", err)
	}
	got := strings.Fields(string(out))
	got = slices.DeleteFunc(got, isModule)
	slices.Sort(got)
	if os.Getenv("ISTHMUS_UPDATE_DEPS") != "" {
		if err := os.WriteFile(proxyDeps, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(proxyDeps)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(text))
	for _, d := range got {
		if !slices.Contains(want, d) {
			t.Errorf("isthmus-proxy links %s, which %s does not list: on purpose, run ISTHMUS_UPDATE_DEPS=1 go test -run TestProxyLinksWhatIsCommitted .", d, proxyDeps)
		}
	}
	for _, d := range want {
		if !slices.Contains(got, d) {
			t.Errorf("isthmus-proxy does not link %s any more: take it out of %s", d, proxyDeps)
		}
	}
}

// proxyBytesMax is what the proxy's binary may weigh, static and stripped.
const proxyBytesMax = 28 << 20

// TestProxyIsSmallAndStatic builds the binary as `make build` does.
func TestProxyIsSmallAndStatic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "isthmus-proxy")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/isthmus-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(info.Size())/(1<<20))
	if info.Size() > proxyBytesMax {
		t.Errorf("%d bytes, want at most %d", info.Size(), proxyBytesMax)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b[:min(len(b), 1<<20)]), "/ld-linux") {
		t.Error("it asks for a dynamic linker")
	}
}
