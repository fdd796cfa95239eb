package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/api/attachments"
	"github.com/isthmus-mesh/isthmus/control/object"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/internal/issued"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/xds"
)

// secureGateway has a listener of HTTPS for each reference, named l0 and so on, at a port of its own.
func secureGateway(refs ...string) string {
	text := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web, namespace: shop}\nspec:\n  gatewayClassName: isthmus\n  listeners:\n"
	for i, r := range refs {
		text += fmt.Sprintf("  - {name: l%d, port: %d, protocol: HTTPS, tls: {certificateRefs: [%s]}}\n", i, 443+i, r)
	}
	return text
}

// withIngress is a site to which an ingress gateway is connected.
func withIngress(c *api.Config) {
	c.Proxies = func() []xds.ClientStatus { return []xds.ClientStatus{{Node: xds.Node{Mode: attachments.IngressMode}}} }
}

// TestListenersSayWhatTheirCertificatesAre has every way in which a reference leads nowhere, and what the apply of each says.
func TestListenersSayWhatTheirCertificatesAre(t *testing.T) {
	s := newSite(t, withIngress)
	ca := issued.NewAuthority(t)
	applied := s.apply(ca.For("shop.example").Secret("shop", "good") + "---\n" + ca.Until(time.Now().Add(-time.Hour), "shop.example").Secret("shop", "ended") +
		"---\n" + ca.For("bank.example").Secret("bank", "granted") + "---\n" + ca.For("bank.example").Secret("bank", "other") +
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: opaque, namespace: shop}\nstringData: {a: b}\n" +
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: bank}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: \"\", kind: Secret, name: granted}]}\n" +
		"---\n" + secureGateway("{name: good}", "{name: ended}", "{name: nowhere}", "{name: opaque}", "{name: granted, namespace: bank}", "{name: other, namespace: bank}",
		"{name: nowhere}, {name: good}", "{kind: ConfigMap, name: good}"))
	var warned []string
	for _, w := range applied.Warnings {
		warned = append(warned, w.Name+" "+w.Field)
	}
	ref := func(i, j int) string { return fmt.Sprintf("web spec.listeners[%d].tls.certificateRefs[%d]", i, j) }
	want := []string{"ended data[tls.crt]", ref(7, 0), ref(1, 0), ref(2, 0), ref(3, 0), ref(5, 0), ref(6, 0), ref(7, 0)}
	if diff := cmp.Diff(want, warned); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	text, err := s.client.Get(s.context(), kind(t, "gateway"), "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	var g struct{ Status attachments.GatewayStatus }
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range g.Status.Listeners {
		line := l.Name
		for _, c := range l.Conditions {
			if c.Type == "ResolvedRefs" || c.Type == "Programmed" {
				line += " " + c.String()
			}
		}
		got = append(got, line)
	}
	resolved, no := " ResolvedRefs=True (ResolvedRefs)", " ResolvedRefs=False (InvalidCertificateRef)"
	yes, invalid := " Programmed=True (Programmed)", " Programmed=False (Invalid)"
	wantStates := []string{"l0" + resolved + yes, "l1" + no + yes, "l2" + no + invalid, "l3" + no + invalid, "l4" + resolved + yes, "l5 ResolvedRefs=False (RefNotPermitted)" + invalid,
		"l6" + no + yes, "l7" + no + invalid}
	if diff := cmp.Diff(wantStates, got); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

// TestBadSecretsAreRefused says every fault at its place, and what to write.
func TestBadSecretsAreRefused(t *testing.T) {
	s := newSite(t)
	ca := issued.NewAuthority(t)
	a, b := ca.For("a.example"), ca.For("b.example")
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"another's key", (issued.Pair{Certificate: a.Certificate, Key: b.Key}).Secret("shop", "s"), []string{"in.yaml:7:12: Secret shop/s: data[tls.key]: is not the key of the first certificate in tls.crt; write the two that belong together, the server's own certificate first"}},
		{"no certificate", (issued.Pair{Certificate: a.Key, Key: a.Key}).Secret("shop", "s"), []string{"in.yaml:6:12: Secret shop/s: data[tls.crt]: block 1 is a PRIVATE KEY and no certificate; write the server's certificate in PEM, and below it those between it and its authority"}},
		{"rubbish in both", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: CANARY, tls.key: CANARY}\n", []string{
			"in.yaml:5:23: Secret shop/s: stringData[tls.crt]: holds no certificate in PEM; write the server's certificate in PEM, and below it those between it and its authority",
			"in.yaml:5:40: Secret shop/s: stringData[tls.key]: holds no private key in PEM; write the private key in PEM, unencrypted: PKCS #8, PKCS #1 or SEC 1"}},
		{"neither", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\n", []string{
			"in.yaml:1:1: Secret shop/s: data[tls.crt]: missing; write the server's certificate in PEM, and below it those between it and its authority",
			"in.yaml:1:1: Secret shop/s: data[tls.key]: missing; write the private key in PEM, unencrypted: PKCS #8, PKCS #1 or SEC 1"}},
	} {
		_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte(c.text)}}, api.ApplyOptions{Namespace: "shop"})
		if diff := cmp.Diff(c.want, faults(refusal(t, err).Faults)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestNobodyReadsASecret asks for Secrets by every path, and finds their names and no more. The control finds the key in what the
// store under it answers, which seals nothing in this test.
func TestNobodyReadsASecret(t *testing.T) {
	s := newSite(t)
	pair := issued.NewAuthority(t).For("shop.example")
	s.apply(pair.Secret("shop", "web") + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: plain, namespace: shop}\nstringData: {password: " + pair.Traces()[0] + "}\n---\n" + secureGateway("{name: web}"))
	leaks := func(text []byte) bool {
		for _, trace := range pair.Traces() {
			if strings.Contains(string(text), trace) {
				return true
			}
		}
		return false
	}
	get := func(path string) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(s.context(), "GET", s.http.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		a, err := s.http.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		part := make([]byte, 64<<10)
		if strings.Contains(path, "watch") { // which does not end
			n, _ := io.ReadAtLeast(a.Body, part, 100)
			return part[:n]
		}
		b, err := io.ReadAll(a.Body)
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("%s: %d %v %s", path, a.StatusCode, err, b)
		}
		return b
	}
	for _, path := range []string{"/v1/objects/secrets/shop/web", "/v1/objects/secrets/shop/plain", "/v1/objects/secrets", "/v1/objects/secrets?watch=true", "/v1/objects/gateways/shop/web",
		"/v1/explain?src=outside@eu-west&dst=https://shop.example/", "/v1/metrics", "/v1/status"} {
		b := get(path)
		if leaks(b) {
			t.Errorf("%s tells the key:\n%s", path, b)
		}
		if strings.Contains(path, "secrets/") && !strings.Contains(string(b), `"(hidden)"`) {
			t.Errorf("%s: %s, want the names of what it holds", path, b)
		}
	}
	all, _, err := s.store.List(s.context(), store.Scope{Kind: "Secret"})
	if err != nil || len(all) != 2 || !leaks(all[0].Value) && !leaks(all[1].Value) {
		t.Errorf("control: %v, %d objects, and no key is found where it is", err, len(all))
	}
	for _, o := range all {
		f, _, _, err := object.Decode(o, self, mesh.Epoch{})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("%v %+v %#v", f, f, f); leaks([]byte(text)) {
			t.Errorf("a fact prints the key: %s", text)
		}
		if f != nil && leaks([]byte(fmt.Sprintf("%v %+v %#v %s", f.Value, f.Value, f.Value, f.Raw))) {
			t.Errorf("a value prints the key")
		}
	}
	// What is shown is no way to write it back by mistake.
	_, err = s.client.Apply(s.context(), []api.File{{Name: "in.json", Text: get("/v1/objects/secrets/shop/web")}}, api.ApplyOptions{})
	if len(refusal(t, err).Faults) == 0 {
		t.Error("what hides the content was applied")
	}
}
