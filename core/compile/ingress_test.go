package compile

import (
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestWhatAClusterDoesNotServe: listeners whose certificates lead nowhere, those that another is in the way of, and
// Gateways of who is not obeyed; not those of others' classes, nor what no peer serves either.
func TestWhatAClusterDoesNotServe(t *testing.T) {
	self := func(accepts ...mesh.Accept) *mesh.Fact {
		return fact(mesh.KindCluster, "eu", "", "eu", &mesh.Cluster{Name: "eu", Accepts: accepts})
	}
	everybody := self(mesh.Accept{Origin: "*", Kind: "*", Namespace: "*"})
	listener := func(name string, port uint16, p mesh.ListenerProtocol, secrets ...string) mesh.Listener {
		l := mesh.Listener{Name: name, Port: port, Protocol: p, Hostname: name + ".example"}
		for _, s := range secrets {
			l.Certificates = append(l.Certificates, mesh.CertificateRef{Kind: string(mesh.KindSecret), Namespace: "shop", Name: s})
		}
		return l
	}
	gateway := func(origin mesh.ClusterName, name, class string, l ...mesh.Listener) *mesh.Fact {
		return fact(mesh.KindGateway, origin, "shop", name, &mesh.Gateway{Namespace: "shop", Name: name, Class: class, Listeners: l})
	}
	secret := func(origin mesh.ClusterName, name, problem string) *mesh.Fact {
		return fact(mesh.KindSecret, origin, "shop", name, &mesh.Certificate{Namespace: "shop", Name: name, Chain: "c", Problem: problem})
	}
	home := gateway("eu", "home", mesh.GatewayClass, listener("https", 443, mesh.ListenerHTTPS, "none"))
	home.Home = true
	for name, c := range map[string]struct {
		facts []*mesh.Fact
		want  string
	}{
		"in the clear":          {[]*mesh.Fact{everybody, gateway("us", "web", mesh.GatewayClass, listener("http", 80, mesh.ListenerHTTP))}, ""},
		"a Secret that is here": {[]*mesh.Fact{everybody, secret("eu", "s", ""), gateway("us", "web", mesh.GatewayClass, listener("https", 443, mesh.ListenerHTTPS, "s"))}, ""},
		"a Secret that is not":  {[]*mesh.Fact{everybody, gateway("us", "web", mesh.GatewayClass, listener("http", 80, mesh.ListenerHTTP), listener("https", 443, mesh.ListenerHTTPS, "s"))}, "shop/web/https"},
		"a Secret of another":   {[]*mesh.Fact{everybody, secret("us", "s", ""), gateway("us", "web", mesh.GatewayClass, listener("https", 443, mesh.ListenerHTTPS, "s"))}, "shop/web/https"},
		"a Secret that is none": {[]*mesh.Fact{everybody, secret("eu", "s", "it has no key"), gateway("us", "web", mesh.GatewayClass, listener("https", 443, mesh.ListenerHTTPS, "s"))}, "shop/web/https"},
		"one of two Secrets":    {[]*mesh.Fact{everybody, secret("eu", "s", ""), gateway("us", "web", mesh.GatewayClass, listener("https", 443, mesh.ListenerHTTPS, "none", "s"))}, ""},
		"none is named":         {[]*mesh.Fact{everybody, gateway("us", "web", mesh.GatewayClass, listener("tls", 443, mesh.ListenerTLS), listener("https", 444, mesh.ListenerHTTPS))}, "shop/web/https shop/web/tls"},
		"listeners that clash":  {[]*mesh.Fact{everybody, gateway("us", "web", mesh.GatewayClass, listener("a", 53, mesh.ListenerUDP), listener("b", 53, mesh.ListenerUDP), listener("c", 54, mesh.ListenerUDP))}, "shop/web/a shop/web/b"},
		"of another class":      {[]*mesh.Fact{everybody, gateway("us", "web", "other", listener("https", 443, mesh.ListenerHTTPS, "s"))}, ""},
		"of its own, for home":  {[]*mesh.Fact{everybody, home}, ""},
		"of who is not obeyed":  {[]*mesh.Fact{self(), gateway("us", "web", mesh.GatewayClass, listener("http", 80, mesh.ListenerHTTP))}, "shop/web/http"},
		"of two origins":        {[]*mesh.Fact{self(), gateway("us", "web", mesh.GatewayClass, listener("http", 80, mesh.ListenerHTTP)), gateway("eu", "web", mesh.GatewayClass, listener("http", 80, mesh.ListenerHTTP))}, ""},
	} {
		got := ""
		if v := compiled(t, IngressOf, struct{}{}, c.facts...); v != nil {
			got = strings.Join(v.Unserved, " ")
			if v.Cluster != "eu" {
				t.Errorf("%s: said by %s", name, v.Cluster)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q is not served, want %q", name, got, c.want)
		}
	}
}

// TestWhatAPeerDoesNotServe is told to proxies with what else is known of it.
func TestWhatAPeerDoesNotServe(t *testing.T) {
	us := fact(mesh.KindCluster, "eu", "", "us", &mesh.Cluster{Name: "us"})
	said := fact(mesh.KindIngress, "eu", "", "us", &mesh.Ingress{Cluster: "us", Unserved: []string{"shop/web/https"}})
	if got := compiled(t, ClusterOf, "us", us, said); strings.Join(got.Unserved, " ") != "shop/web/https" {
		t.Errorf("%+v", got)
	}
	said.Origin = "ap" // hearsay
	if got := compiled(t, ClusterOf, "us", us, said); got.Unserved != nil {
		t.Errorf("%+v", got)
	}
}
