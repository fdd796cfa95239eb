package compile

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/derive"
	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/core/world"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// leaves calls visit with each way to set exactly one leaf of v, and undoes it.
func leaves(v reflect.Value, path string, visit func(path string)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, visit)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		leaves(v.Elem(), path, visit)
		v.SetZero()
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		leaves(v.Index(0), path+"[0]", visit)
		v.SetZero()
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString("other")
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Float64:
			v.SetFloat(7.5)
		case reflect.Uint16, reflect.Uint32:
			v.SetUint(77)
		default:
			v.SetInt(int64(77 * time.Second))
		}
		visit(path)
		v.SetZero()
	}
}

// compiled is the value of f in a world of one service and the facts.
func compiled[K comparable, V any](t *testing.T, f *derive.Func[K, V], k K, facts ...*mesh.Fact) V {
	t.Helper()
	w := world.New("eu")
	edits := []world.Edit{world.Put(fact(mesh.KindService, "eu", "shop", "a", &mesh.Service{ServiceName: services[0], Ports: []mesh.ServicePort{{Port: 80, Protocol: mesh.ProtocolHTTP}}}))}
	for _, f := range facts {
		edits = append(edits, world.Put(f))
	}
	w, _ = w.Edit(edits)
	v, err := derive.Eval(w, f, k)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestEveryFieldOfAPolicyReachesTheProxy sets one field at a time: a field that the merge forgets
// changes nothing.
func TestEveryFieldOfAPolicyReachesTheProxy(t *testing.T) {
	targets := []mesh.TargetRef{{Kind: "Mesh"}}
	seen := 0
	check := func(path string, without, with any) {
		seen++
		if ir.DigestOf(without) == ir.DigestOf(with) {
			t.Errorf("%s changes nothing of what a proxy is told", path)
		}
	}
	service := func(kind mesh.Kind, v any) *ir.Service {
		return compiled(t, ServiceOf, In{services[0], view}, fact(kind, "eu", "shop", "p", v))
	}

	p := &mesh.TrafficPolicy{Targets: targets, Health: &mesh.HealthCheck{}, Balancing: mesh.Balancing{Algorithm: mesh.AlgorithmConsistentHash}, Strategy: mesh.StrategyWeighted, Admission: mesh.Admission{Mode: mesh.AdmissionAdaptive}}
	p.Fallback = &mesh.Fallback{Static: &mesh.StaticAnswer{}}
	none := service(mesh.KindTrafficPolicy, p)
	for _, part := range []any{&p.Strategy, &p.Distribution, &p.ConnectTimeout, &p.RequestTimeout, &p.TryTimeout, &p.IdleTimeout, &p.Balancing.Table, &p.Balancing.Keys,
		&p.Balancing.Warmup, &p.Affinity, &p.Retry, &p.Outlier, p.Health, &p.Limits, &p.RateLimits, &p.Admission, &p.Criticality, &p.Fallback.On, &p.Fallback.AnyMethod, p.Fallback.Static} {
		leaves(reflect.ValueOf(part).Elem(), reflect.TypeOf(part).String(), func(path string) { check(path, none, service(mesh.KindTrafficPolicy, p)) })
	}

	faults := &mesh.FaultPolicy{Targets: targets, Faults: []mesh.Fault{{}}}
	none = service(mesh.KindFaultPolicy, faults)
	leaves(reflect.ValueOf(&faults.Faults[0]).Elem(), "fault", func(path string) { check(path, none, service(mesh.KindFaultPolicy, faults)) })

	report := &mesh.TelemetryPolicy{Targets: targets}
	told := func() *ir.Proxy {
		return compiled(t, ProxyOf, ProxyKey{ID: "shop/w", View: view, Identity: mesh.Identity{Namespace: "shop"}}, fact(mesh.KindTelemetryPolicy, "eu", "shop", "p", report))
	}
	silent := told()
	leaves(reflect.ValueOf(&report.Telemetry).Elem(), "telemetry", func(path string) { check(path, silent, told()) })
	if seen < 60 {
		t.Errorf("only %d fields were set", seen)
	}
}

// TestNegativeTakesAWiderPolicyAway gives every number of a wide policy a value and of a narrow one
// its negative: what reaches the proxy is what no policy would say, or none.
func TestNegativeTakesAWiderPolicyAway(t *testing.T) {
	wide := &mesh.TrafficPolicy{Targets: []mesh.TargetRef{{Kind: "Mesh"}}, RequestTimeout: 1, Balancing: mesh.Balancing{Warmup: 1}, Admission: mesh.Admission{Mode: mesh.AdmissionAdaptive, MaxWait: 1},
		Retry: mesh.RetryPolicy{Attempts: 5, Backoff: 1}, Outlier: mesh.Outlier{SuccessRateStdev: 5},
		Limits: mesh.Limits{Connections: 1, Pending: 1, Requests: 1, Concurrency: 1, RequestHead: 1, ResponseHead: 1, RequestBody: 1, ResponseBody: 1}}
	narrow := &mesh.TrafficPolicy{Targets: []mesh.TargetRef{{Kind: "Namespace", Name: "shop"}}, RequestTimeout: -1, Balancing: mesh.Balancing{Warmup: -1}, Admission: mesh.Admission{Mode: mesh.AdmissionNone},
		Retry: mesh.RetryPolicy{Attempts: -1, Backoff: -1}, Outlier: mesh.Outlier{SuccessRateStdev: -1},
		Limits: mesh.Limits{Connections: -1, Pending: -1, Requests: -1, Concurrency: -1, RequestHead: -1, ResponseHead: -1, RequestBody: -1, ResponseBody: -1}}
	got := compiled(t, ServiceOf, In{services[0], view}, fact(mesh.KindTrafficPolicy, "eu", "shop", "wide", wide), fact(mesh.KindTrafficPolicy, "eu", "shop", "narrow", narrow)).Traffic
	want := defaults()
	want.RequestTimeout, want.Retry.Attempts, want.Outlier.SuccessRateStdev = 0, 0, -1 // negative is never
	want.Policies = []string{"TrafficPolicy shop/narrow@eu", "TrafficPolicy shop/wide@eu"}
	if ir.DigestOf(got) != ir.DigestOf(want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestAFallbackIsTakenWholeAndMustBeGranted: the most specific policy's, with what it does not say filled in; another service of
// the policy's namespace may be named, one of another where a grant says so, and never the service itself.
func TestAFallbackIsTakenWholeAndMustBeGranted(t *testing.T) {
	b := mesh.ServiceName{Namespace: "plain", Name: "b"}
	other := fact(mesh.KindService, "eu", "plain", "b", &mesh.Service{ServiceName: b, Ports: []mesh.ServicePort{{Port: 80, Protocol: mesh.ProtocolHTTP}, {Port: 53, Protocol: mesh.ProtocolUDP}}})
	grant := func(kind string) *mesh.Fact {
		return fact(mesh.KindReferenceGrant, "eu", "plain", "g", &mesh.ReferenceGrant{Namespace: "plain", Name: "g",
			From: []mesh.GrantFrom{{Group: "isthmus.dev", Kind: kind, Namespace: "shop"}}, To: []mesh.GrantTo{{Kind: "Service"}}})
	}
	policy := func(name, target string, f *mesh.Fallback) *mesh.Fact {
		return fact(mesh.KindTrafficPolicy, "eu", "shop", name, &mesh.TrafficPolicy{Namespace: "shop", Name: name, Fallback: f,
			Targets: []mesh.TargetRef{{Kind: target, Name: map[string]string{"Mesh": "", "Namespace": "shop"}[target]}}})
	}
	to := func(s mesh.ServiceName, port uint16) *mesh.Fallback {
		return &mesh.Fallback{Service: &mesh.FallbackService{Kind: "Service", Service: s, Port: port}}
	}
	for _, c := range []struct {
		what  string
		facts []*mesh.Fact
		want  string // the beginning of why it is none; "-" is one, "none" that there is no word of any
	}{
		{"no policy", nil, "none"},
		{"granted", []*mesh.Fact{other, grant("TrafficPolicy"), policy("p", "Mesh", to(b, 80))}, "-"},
		{"not granted", []*mesh.Fact{other, policy("p", "Mesh", to(b, 80))}, "no ReferenceGrant"},
		{"granted to routes", []*mesh.Fact{other, grant("HTTPRoute"), policy("p", "Mesh", to(b, 80))}, "no ReferenceGrant"},
		{"not there", []*mesh.Fact{grant("TrafficPolicy"), policy("p", "Mesh", to(b, 80))}, "service plain/b does not exist"},
		{"no such port", []*mesh.Fact{other, grant("TrafficPolicy"), policy("p", "Mesh", to(b, 81))}, "service plain/b has no such port"},
		{"a port of datagrams", []*mesh.Fact{other, grant("TrafficPolicy"), policy("p", "Mesh", to(b, 53))}, "service plain/b has no such port"},
		{"itself", []*mesh.Fact{policy("p", "Mesh", to(services[0], 80))}, "a service cannot answer"},
		{"taken away", []*mesh.Fact{policy("wide", "Mesh", &mesh.Fallback{Cache: &mesh.StaleCache{}}), policy("narrow", "Namespace", &mesh.Fallback{})}, "none"},
		{"narrower", []*mesh.Fact{policy("wide", "Mesh", to(b, 80)), policy("narrow", "Namespace", &mesh.Fallback{Cache: &mesh.StaleCache{}})}, "-"},
	} {
		got := compiled(t, ServiceOf, In{services[0], view}, c.facts...).Traffic.Fallback
		switch {
		case got == nil:
			if c.want != "none" {
				t.Errorf("%s: no fallback", c.what)
			}
			continue
		case c.want == "none" || c.want == "-" && got.Missing != "" || c.want != "-" && !strings.HasPrefix(got.Missing, c.want):
			t.Errorf("%s: %+v", c.what, got)
		}
		if len(got.Fallback.On) != 5 || got.Object == "" || got.Fallback.Cache != nil && got.Fallback.Cache.MaxStale != mesh.DefaultMaxStale {
			t.Errorf("%s: what it does not say is not filled in: %+v", c.what, got)
		}
	}
}
