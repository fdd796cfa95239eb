package plane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// upload is a request whose body goes on until end, which returns its answer.
func upload(client *http.Client, url string) (more func() error, end func() string) {
	r, w := io.Pipe()
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Post(url, "text/plain", r)
		if err != nil {
			r.CloseWithError(err)
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprintf("%d %s %v", resp.StatusCode, b, err)
	}()
	return func() error { _, err := w.Write([]byte("more")); return err }, func() string { w.Close(); return <-answer }
}

// TestClustersJoinAndLeaveUnderLoad: a third cluster joins two that serve each other, serves, and leaves, twice; no request between the two fails, and one that was long there goes on. The
// control is a cluster in use that leaves: requests to it fail.
func TestClustersJoinAndLeaveUnderLoad(t *testing.T) {
	ctx, parts := lasting(t)
	eu, us := startCluster(t, ctx, parts, "eu"), startCluster(t, ctx, parts, "us")
	for _, c := range []*cluster{eu, us} {
		c.join(eu)
		c.join(us)
	}
	us.serve("catalog")
	const url = "http://catalog.shop.svc.clusterset.local/"
	client := eu.client()
	eventually(t, "200 us catalog", func() string { return get(client, url) })
	stop := load(client, url)
	more, end := upload(client, url)
	again := func() {
		t.Helper()
		if err := more(); err != nil {
			t.Fatalf("the request that was there before: %v", err)
		}
	}
	again()
	leave := func(from *cluster, who mesh.ClusterName) {
		t.Helper()
		if _, err := from.plane.Objects().Delete(ctx, store.Key{Kind: "Cluster.isthmus.dev", Name: string(who)}, store.Any()); err != nil {
			t.Fatal(err)
		}
	}
	ap := startCluster(t, ctx, parts, "ap")
	ap.serve("late")
	for range 2 {
		for _, c := range []*cluster{eu, us, ap} {
			ap.join(c)
			c.join(ap)
		}
		eventually(t, "200 ap late", func() string { return get(client, "http://late.shop.svc.clusterset.local/") })
		again()
		for _, c := range []*cluster{eu, us} {
			leave(c, "ap")
		}
		eventually(t, "502 unknown_host", func() string { return get(client, "http://late.shop.svc.clusterset.local/") })
		again()
	}
	if got := end(); !strings.HasPrefix(got, "200 us catalog") {
		t.Errorf("the request that was there all the while: %s", got)
	}
	total, failed := stop()
	t.Logf("%d requests while a cluster joined and left twice, %d failed", total, len(failed))
	if total < 50 || len(failed) > 0 {
		t.Errorf("%d requests, %d failed: %.3q", total, len(failed), failed)
	}
	stop = load(client, url)
	leave(eu, "us")
	eventually(t, "502 unknown_host", func() string { return get(client, url) })
	if total, failed := stop(); len(failed) == 0 {
		t.Errorf("control: none of %d requests failed while the cluster that serves them left: the load shows nothing", total)
	}
}
