package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const faultMesh = `
apiVersion: isthmus.dev/v1alpha1
kind: LocalMesh
clusters:
  - {name: eu-west, jurisdiction: EU}
  - {name: us-east, jurisdiction: US}
  - {name: ap-south, jurisdiction: IN}
links:
  - {between: [eu-west, us-east], rtt: 20ms}
  - {between: [eu-west, ap-south], rtt: 60ms}
  - {between: [us-east, ap-south], rtt: 60ms}
workloads:
  - {name: catalog, namespace: shop, clusters: [eu-west], replicas: 2, run: builtin/echo}
  - {name: reviews, namespace: shop, clusters: [eu-west], replicas: 2, run: builtin/echo}
  - {name: cart, namespace: shop, clusters: [eu-west], replicas: 2, run: builtin/echo}
  - {name: far, namespace: shop, clusters: [us-east, ap-south], run: builtin/echo}
`

const far = "http://far.shop.svc.clusterset.local/"

// TestFaults breaks one mesh in one way after the other under a steady load, and holds it to
// its promises: not one request fails, and traffic has left in time. The steps share the
// mesh, in order: each leaves it whole.
func TestFaults(t *testing.T) {
	m := newMesh(t, 110)
	m.up("-f", write(t, "mesh.yaml", faultMesh))
	for _, step := range []struct {
		name string
		f    func(*testing.T, *meshUnder)
	}{
		{"a stopped endpoint is left within 3 s", func(t *testing.T, m *meshUnder) { stopped(t, m, "http://catalog.shop/", "catalog.shop/0@eu-west") }},
		{"a stopped application is left within 3 s", func(t *testing.T, m *meshUnder) { stopped(t, m, "http://reviews.shop/", "app:reviews.shop/0@eu-west") }},
		{"a sidecar crashes twice in a row", crashTwice},
		{"a killed gateway: moved within 1 s", func(t *testing.T, m *meshUnder) {
			moved(t, m, time.Second, []string{"kill", "gateway@us-east"}, []string{"resume", "gateway@us-east"})
		}},
		{"a stopped gateway: moved within 3 s", func(t *testing.T, m *meshUnder) {
			moved(t, m, 3*time.Second, []string{"pause", "gateway@us-east"}, []string{"resume", "gateway@us-east"})
		}},
		{"nothing goes out: moved within 6 s", func(t *testing.T, m *meshUnder) {
			moved(t, m, 6*time.Second, []string{"partition", "eu-west--us-east", "--direction", "a-to-b"}, []string{"heal", "eu-west--us-east"})
		}},
		{"nothing comes back: moved within 6 s", func(t *testing.T, m *meshUnder) {
			moved(t, m, 6*time.Second, []string{"partition", "eu-west--us-east", "--direction", "b-to-a"}, []string{"heal", "eu-west--us-east"})
		}},
		{"only requests are cut: moved within 3 s", func(t *testing.T, m *meshUnder) {
			moved(t, m, 3*time.Second, []string{"partition", "eu-west--us-east", "--only", "data"}, []string{"heal", "eu-west--us-east", "--only", "data"})
			toldWhy(t, m)
		}},
		{"only control planes are cut from each other: nothing moves", onlyControl},
		{"a control link that flaps: nothing moves", flapping},
		{"a slow link that loses: nothing fails", slow},
		{"a stopped control plane is left within 10 s and followed again", stoppedPlane},
	} {
		t.Run(step.name, func(t *testing.T) {
			own := *m
			own.t = t
			step.f(t, &own)
		})
	}
}

// slowest is the longest of the samples, zero without one.
func slowest(s []sample) sample {
	return slices.MaxFunc(append(s, sample{}), func(a, b sample) int { return int(a.took - b.took) })
}

// left asserts that by a time on the load's clock requests no longer met the fault: those that
// began after it were answered fast. trials may have met it.
func (l *load) left(t *testing.T, by, until, fast time.Duration, trials int) {
	t.Helper()
	s := l.samples(by, until)
	if len(s) < 50 {
		t.Fatalf("%d requests began between %v and %v, want more", len(s), by, until)
	}
	met := slices.DeleteFunc(slices.Clone(s), func(x sample) bool { return x.took <= fast })
	if len(met) > trials {
		worst := slowest(met)
		t.Errorf("%d of %d requests still met the fault, want at most %d; the slowest began at %v and took %v", len(met), len(s), trials, worst.begin, worst.took)
	}
}

// stopped has an instance stop (SIGSTOP): what was asked of it is answered by others.
func stopped(t *testing.T, m *meshUnder, url, target string) {
	l := m.load(0, url, 100)
	defer l.stop()
	victim := serving(t, l, target)
	before := l.now()
	m.run("drill", "pause", target)
	<-time.After(6 * time.Second)
	end := l.now()
	l.stop().mustNotFail(t)
	m.run("drill", "resume", target)
	t.Logf("%s stopped: the slowest took %v", victim, slowest(l.samples(before, end)).took)
	// Whether an endpoint is back a probe finds out, and no request. An application that is silent
	// behind a proxy that answers is tried again by one now and then.
	trials := 0
	if strings.HasPrefix(target, "app:") {
		trials = 3
	}
	l.left(t, before+3*time.Second, end, 500*time.Millisecond, trials)
}

// serving waits until the instance of a target ("app:reviews.shop/0@eu-west") has a part of
// the load: of two endpoints the one that was slow lately, on a busy machine, gets less for a while.
func serving(t *testing.T, l *load, target string) (instance string) {
	t.Helper()
	target = target[strings.LastIndex(target, ":")+1:]
	name, ordinal, _ := strings.Cut(strings.TrimSuffix(target, "@eu-west"), ".shop/")
	instance = name + "-" + ordinal
	eventually(t, 30*time.Second, instance+" takes its part", func() (string, bool) {
		n := 0
		s := l.samples(l.now()-time.Second, l.now())
		for _, x := range s {
			if x.instance == instance {
				n++
			}
		}
		return fmt.Sprintf("%d of %d", n, len(s)), n >= 10
	})
	return instance
}

// moved breaks the way to us-east, and later mends it.
func moved(t *testing.T, m *meshUnder, within time.Duration, fault, remedy []string) {
	l := m.load(0, far, 100)
	defer l.stop()
	l.movesTo(t, "us-east", 20*time.Second)
	before := l.now()
	m.run(append([]string{"drill"}, fault...)...)
	<-time.After(within + 2*time.Second)
	end := l.now()
	m.run(append([]string{"drill"}, remedy...)...)
	l.movesTo(t, "us-east", 40*time.Second)
	l.stop().mustNotFail(t)
	t.Logf("the slowest took %v", slowest(l.samples(before, end)).took)
	// What began at the right time went elsewhere at once.
	l.left(t, before+within, end, time.Second, 0)
	for _, s := range l.samples(before+within, end) {
		if s.cluster != "ap-south" {
			t.Fatalf("a request that began %v after the fault was served by %s", s.begin-before, s.cluster)
		}
	}
	m.inSync(t, 20*time.Second)
}

// toldWhy asserts that the cluster which lost the way says so, and that it is back because of nothing else.
func toldWhy(t *testing.T, m *meshUnder) {
	told := m.run("events", "--cluster", "eu-west", "--about", "us-east", "--kind", "path")
	_, told, lost := strings.Cut(told, "path us-east: path_lost\n    because  its gateways refuse, or are silent")
	_, told, moved := strings.Cut(told, "so       requests from eu-west go to other clusters than us-east")
	if _, told, back := strings.Cut(told, "path us-east: path_back\n"); !lost || !moved || !back || !strings.Contains(told, "follows  #") {
		t.Errorf("a way that was lost and came back is not told: %s", told)
	}
}

// stays asserts that every request since a time was served by a cluster, and at once.
func (l *load) stays(t *testing.T, since time.Duration, cluster string) {
	t.Helper()
	end := l.now()
	l.stop().mustNotFail(t)
	for _, s := range l.samples(since, end) {
		if s.cluster != cluster {
			t.Fatalf("a request that began %v after the fault was served by %s", s.begin-since, s.cluster)
		}
	}
	t.Logf("the slowest took %v", slowest(l.samples(since, end)).took)
}

// onlyControl cuts what control planes tell each other: what is known of the other cluster grows stale, which status says,
// and requests go on.
func onlyControl(t *testing.T, m *meshUnder) {
	l := m.load(0, far, 100)
	defer l.stop()
	l.movesTo(t, "us-east", 20*time.Second)
	before := l.now()
	m.run("drill", "partition", "eu-west--us-east", "--only", "control")
	eventually(t, 30*time.Second, "status says that it is stale", func() (string, bool) {
		out, code := m.try("status")
		return out, code != 0 && strings.Contains(out, "StaleServing")
	})
	<-time.After(5 * time.Second)
	m.run("drill", "heal", "eu-west--us-east", "--only", "control")
	m.inSync(t, 20*time.Second)
	l.stays(t, before, "us-east")
}

var flapTime = flag.Duration("flap", 15*time.Second, "how long a control link flaps")

// flapping cuts and heals what control planes tell each other, again and again, for 0.2 to 3 s each.
func flapping(t *testing.T, m *meshUnder) {
	l := m.load(0, far, 100)
	defer l.stop()
	l.movesTo(t, "us-east", 20*time.Second)
	before, cuts := l.now(), 0
	for end := time.Now().Add(*flapTime); time.Now().Before(end); cuts++ {
		for _, verb := range []string{"partition", "heal"} {
			m.run("drill", verb, "eu-west--us-east", "--only", "control")
			<-time.After(200*time.Millisecond + rand.N(2800*time.Millisecond))
		}
	}
	m.inSync(t, 20*time.Second)
	t.Logf("%d cuts in %v", cuts, *flapTime)
	l.stays(t, before, "us-east")
}

func slow(t *testing.T, m *meshUnder) {
	l := m.load(0, far, 100)
	defer l.stop()
	m.run("drill", "slow", "eu-west--us-east", "--rtt", "300ms", "--loss", "5%")
	<-time.After(6 * time.Second)
	m.run("drill", "heal", "eu-west--us-east")
	l.stop().mustNotFail(t)
	t.Logf("the slowest took %v", slowest(l.samples(0, l.now())).took)
	m.inSync(t, 20*time.Second)
}

// crashTwice kills a sidecar, and again as soon as it is back. Callers may leave it alone for
// longer: whether it serves is asked of itself.
func crashTwice(t *testing.T, m *meshUnder) {
	l := m.load(0, "http://cart.shop/", 100)
	defer l.stop()
	instance := serving(t, l, "cart.shop/0@eu-west")
	ready := "http://" + m.admin("eu-west.shop."+instance+".sidecar") + "/ready"
	direct := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 2 {
		m.crash(t, "proxy", "eu-west.shop."+instance+".sidecar")
		took := eventually(t, 2*time.Second, "the sidecar is ready again", func() (string, bool) {
			a := get(direct, ready)
			return a.String(), a.Status == 200
		})
		t.Logf("ready again after %v", took.Round(time.Millisecond))
	}
	back := l.now()
	eventually(t, 60*time.Second, "it is used again", func() (string, bool) {
		s := l.samples(back, l.now())
		return fmt.Sprint(len(s)), slices.ContainsFunc(s, func(x sample) bool { return x.instance == instance })
	})
	l.stop().mustNotFail(t)
}

// stoppedPlane stops a control plane: its connections stay, and say nothing.
func stoppedPlane(t *testing.T, m *meshUnder) {
	l := m.load(0, "http://cart.shop/", 100)
	defer l.stop()
	past := len(m.log("eu-west.shell"))
	m.run("drill", "pause", "control-plane@eu-west")
	m.says(t, "eu-west.shell", past, 10*time.Second, "the control plane is not followed")
	m.crash(t, "proxy", "eu-west.shop.cart-1.sidecar")
	took := eventually(t, 5*time.Second, "a sidecar that restarts meanwhile serves", func() (string, bool) {
		a := get(m.shell(0), "http://cart.shop/")
		return a.String(), a.Instance == "cart-1"
	})
	t.Logf("serving again after %v", took.Round(time.Millisecond))
	m.run("drill", "resume", "control-plane@eu-west")
	took = m.inSync(t, 10*time.Second)
	t.Logf("in sync %v after it went on", took.Round(time.Millisecond))
	l.stop().mustNotFail(t)
	if out, code := m.apply("eu-west", strings.ReplaceAll(split, "weight: 10", "weight: 0")); code != 0 {
		t.Fatalf("apply: exit %d: %s", code, out)
	}
	eventually(t, 5*time.Second, "what it says is followed again", func() (string, bool) {
		a := get(m.shell(0), catalog)
		return a.String(), a.Service == "reviews"
	})
	m.run("delete", "httproute", "split", "-n", "shop", "--cluster", "eu-west")
	eventually(t, 5*time.Second, "and once more", func() (string, bool) {
		a := get(m.shell(0), catalog)
		return a.String(), a.Service == "catalog"
	})
}
