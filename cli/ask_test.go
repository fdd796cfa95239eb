package cli_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-mesh/isthmus/cli"
)

// oneHangs is the way to a mesh of which one cluster takes requests and never answers.
type oneHangs struct {
	handler http.Handler
	cluster string
}

func (o oneHangs) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Path, "/v1/clusters/"+o.cluster+"/") {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	answer := httptest.NewRecorder()
	o.handler.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// TestAHungControlPlaneHidesNoOther asks all clusters while one of them does not answer: what the others
// say is printed within its two seconds, and the one is named.
func TestAHungControlPlaneHidesNoOther(t *testing.T) {
	const shop = "apiVersion: v1\nkind: Service\nmetadata: {name: catalog, namespace: shop}\nspec: {ports: [{port: 80}]}\n"
	for _, c := range []struct {
		name     string
		args     []string
		hung     string
		took     time.Duration
		out, err string
		code     int
	}{
		{"status", []string{"status"}, "us-east", 2 * time.Second, "us-east   no          unknown", "us-east: no answer within 2s", 1},
		{"status as JSON", []string{"status", "-o", "json"}, "us-east", 2 * time.Second, "\"problem\": \"no answer within 2s", "", 1},
		{"status, the first", []string{"status"}, "eu-west", 2 * time.Second, "us-east   yes         yes", "eu-west: no answer within 2s", 1},
		{"status with patience", []string{"status", "--timeout", "5s"}, "us-east", 5 * time.Second, "eu-west   yes", "us-east: no answer within 5s", 1},
		{"status of the one", []string{"status", "--cluster", "us-east"}, "us-east", 30 * time.Second, "us-east   no", "us-east: no answer within 30s", 1},
		{"proxies", []string{"proxy-status"}, "eu-west", 2 * time.Second, "us-east   shop/catalog-0", "cluster eu-west: no answer within 2s", 2},
		{"a proxy's configuration", []string{"proxy-config", "catalog-0.shop"}, "eu-west", 2 * time.Second, "shop/catalog-0@us-east", "", 0},
		{"versions", []string{"version", "--mesh"}, "eu-west", 2 * time.Second, "control-plane@us-east", "cluster eu-west: no answer within 2s", 2},
		{"objects", []string{"get", "services,httproutes", "-A", "--all-clusters"}, "eu-west", 2 * time.Second, "catalog", "cluster eu-west: no answer within 2s", 2},
		{"objects in full", []string{"describe", "service", "catalog", "-n", "shop", "--all-clusters"}, "eu-west", 2 * time.Second, "catalog", "cluster eu-west: no answer within 2s", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGround(t)
			if _, errs, code := g.run(shop, "apply", "-f", "-", "--cluster", "us-east"); code != 0 {
				t.Fatal(errs)
			}
			synctest.Test(t, func(t *testing.T) {
				var out, errs bytes.Buffer
				o := g.options(strings.NewReader(""), &out, &errs)
				o.HTTP = &http.Client{Transport: oneHangs{g.console.Config.Handler, c.hung}}
				began := time.Now()
				code := cli.Run(context.Background(), o, c.args)
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
					t.Errorf("exit %d, want %d with %q and %q:\n%s%s", code, c.code, c.out, c.err, out.String(), errs.String())
				}
			})
		})
	}
}
