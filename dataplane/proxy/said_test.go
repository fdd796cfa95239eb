package proxy_test

import (
	"testing"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/dataplane/proxy"
)

// TestLoadReportsStayWithTheApplication: what an application says of its own load, in the head or the trailers of its answer, is
// heard by its proxy and by nobody else, but for gRPC's own form, which its clients may balance by. What comes from elsewhere is no word of this application's, and goes on as it came.
func TestLoadReportsStayWithTheApplication(t *testing.T) {
	const field, binary = "endpoint-load-metrics", "endpoint-load-metrics-bin"
	w := serving(t)
	s := answer(200, "ok").says(field, "TEXT application_utilization=0.5").says("x-mine", "1")
	s.after = []message.Field{{Name: []byte("grpc-status"), Value: []byte("0")}, {Name: []byte(binary), Value: []byte("SQAAAAAAAOg/")}} // application_utilization=0.75
	w.script = []any{s}
	ex := asked("/")
	w.proxy.Inbound(ex, peer)
	if ex.status != 200 || ex.field(field) != "" || ex.field("x-mine") != "1" || len(ex.after) != 2 || string(ex.after[1].Name) != binary {
		t.Errorf("%d with %q and trailers %q", ex.status, ex.fields, ex.after)
	}
	if got := w.proxy.Said().Take(); got.Reports != 2 || got.Utilisation != 0.625 {
		t.Errorf("heard %+v, want two reports of 0.625 on average", got)
	}

	w = newWorld(t, 1, nil)
	s = answer(200, "ok").says(field, "TEXT application_utilization=0.5")
	s.after = []message.Field{{Name: []byte(binary), Value: []byte("SQAAAAAAAOg/")}}
	w.script = []any{s}
	ex = get("catalog", "/")
	w.proxy.Outbound(ex, proxy.Via{})
	if got := w.proxy.Said().Take(); got.Reports != 0 || ex.status != 200 || ex.field(field) == "" || len(ex.after) != 1 {
		t.Errorf("of what another answered %+v is heard, and there is left %q, %q", got, ex.fields, ex.after)
	}
}
