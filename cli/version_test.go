package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/cli"
)

// told answers what clusters say of themselves: path → JSON.
type told map[string]string

func (d told) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	if text, ok := d[r.URL.RequestURI()]; ok {
		answer.Header().Set("Content-Type", "application/json")
		_, _ = answer.WriteString(text)
	} else {
		answer.WriteHeader(http.StatusServiceUnavailable)
	}
	return answer.Result(), nil
}

// ask runs a command over what clusters say.
func (d told) ask(version string, args ...string) (out, errs string, code int) {
	var o, e bytes.Buffer
	code = cli.Run(context.Background(), cli.Options{In: strings.NewReader(""), Out: &o, Err: &e, Version: version, HTTP: &http.Client{Transport: d},
		StateDir: func() (string, error) { return "/nonexistent", nil }}, append(args, "--api", "http://mesh", "--token", "x"))
	return o.String(), e.String(), code
}

// says is the status of a cluster: its control plane's version, and its one proxy's.
func says(cluster, plane, proxy string) string {
	return fmt.Sprintf(`{"cluster":%q,"ready":true,"version":%q,"peers":[],"proxies":[{"id":"shop/catalog-0","mode":"sidecar","version":%q,"inSync":true}]}`, cluster, plane, proxy)
}

const twoClusters = `{"clusters":[{"name":"eu-west"},{"name":"us-east"}]}`

// TestVersionJudgesSkew: isthmus version --mesh names what is behind, what is beyond what is served, and what to upgrade first.
func TestVersionJudgesSkew(t *testing.T) {
	for name, c := range map[string]struct {
		cli, eu, us string // versions; of a cluster "plane proxy"
		out, errs   []string
		code        int
	}{
		"all alike":         {"v0.3.0", "v0.3.0 v0.3.0", "v0.3.0 v0.3.0", []string{"control-plane@us-east    control-plane   v0.3.0    current\n"}, nil, 0},
		"two back":          {"v0.3.0", "v0.3.0 v0.3.0", "v0.1.0 v0.1.0", []string{"v0.1.0    behind", "1. upgrade the control-plane of us-east from 0.1.0 to 0.3.0", "2. upgrade the sidecar of us-east from 0.1.0 to 0.3.0"}, nil, 0},
		"three back":        {"v0.4.0", "v0.4.0 v0.4.0", "v0.1.0 v0.1.0", []string{"control-plane@us-east    control-plane   v0.1.0    unsupported"}, []string{"control-plane@us-east: unsupported: v0.1.0 and control-plane v0.4.0 of eu-west are more than 2 minor versions apart"}, 1},
		"a proxy too early": {"v0.3.0", "v0.3.0 v0.3.0", "v0.1.0 v0.3.0", []string{"1. upgrade the control-plane of us-east"}, []string{"shop/catalog-0@us-east: unsupported"}, 1},
		"a proxy early":     {"v0.3.0", "v0.3.0 v0.3.0", "v0.2.0 v0.3.0", []string{"v0.3.0    early", "1. upgrade the control-plane of us-east"}, []string{"shop/catalog-0@us-east: early: newer than its control plane (v0.2.0)"}, 0},
		"no versions":       {"dev", "dev dev", "1637067 dev", []string{"1637067   unknown"}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := told{"/v1/local": twoClusters}
			for cluster, v := range map[string]string{"eu-west": c.eu, "us-east": c.us} {
				plane, proxy, _ := strings.Cut(v, " ")
				d["/v1/clusters/"+cluster+"/v1/status"] = says(cluster, plane, proxy)
			}
			out, errs, code := d.ask(c.cli, "version", "--mesh")
			for _, want := range c.out {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			for _, want := range c.errs {
				if !strings.Contains(errs, want) {
					t.Errorf("no %q in\n%s", want, errs)
				}
			}
			if code != c.code {
				t.Errorf("exit %d, want %d:\n%s%s", code, c.code, out, errs)
			}
		})
	}
}

// TestVersionSaysWhoDidNotAnswer: a cluster that is away is named in every format, and the others are judged.
func TestVersionSaysWhoDidNotAnswer(t *testing.T) {
	d := told{"/v1/local": twoClusters, "/v1/clusters/eu-west/v1/status": says("eu-west", "v0.3.0", "v0.2.0")}
	for format, wants := range map[string][]string{
		"table": {"control-plane@us-east    control-plane   no answer   unknown", "v0.2.0      behind"},
		"json":  {`"unknown": [`, `"us-east"`, `"state": "behind"`, `"upgrade": [`, `"to": "0.3.0"`},
		"yaml":  {"unknown:", "- us-east", "state: behind"},
	} {
		out, errs, code := d.ask("v0.3.0", "version", "--mesh", "-o", format)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", format, want, out)
			}
		}
		if code != cli.ExitFailed || !strings.Contains(errs, "cluster us-east") {
			t.Errorf("%s: exit %d: %s", format, code, errs)
		}
	}
}
