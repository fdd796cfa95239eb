package xds_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/isthmus-mesh/isthmus/xds"
)

const typeTop = "test/Top"

// refersTo says what a type's contents name: "t3" or "t3|padding".
var refersTo = map[string]string{typeRefer: typeTarget, typeTop: typeRefer}

// whole is the law: whatever is held refers only to what is held.
func whole(m *model) error {
	for typ, target := range refersTo {
		for name, content := range m.holds[typ] {
			ref, _, _ := strings.Cut(content, "|")
			if _, ok := m.holds[target][ref]; !ok {
				return fmt.Errorf("torn: %s %s refers to %s %s, which is not held", typ, name, target, ref)
			}
		}
	}
	return nil
}

// drawWorld draws contents of three types, each referring to existing names of the one
// before.
func drawWorld(t *rapid.T) map[string]map[string]string {
	world := map[string]map[string]string{}
	var below []string
	for _, typ := range []string{typeTarget, typeRefer, typeTop} {
		of := map[string]string{}
		var names []string
		for i := range 4 {
			if !rapid.Bool().Draw(t, "exists") || (typ != typeTarget && len(below) == 0) {
				continue
			}
			content := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "content")
			if typ != typeTarget {
				content = rapid.SampledFrom(below).Draw(t, "refers to")
			}
			if rapid.IntRange(0, 3).Draw(t, "big") == 0 { // three do not fit a message
				content += "|" + strings.Repeat("p", 400<<10)
			}
			name := fmt.Sprint(i)
			of[name] = content
			names = append(names, name)
		}
		world[typ] = of
		below = names
	}
	return world
}

func difference(from, to map[string]map[string]string) []xds.Update {
	var out []xds.Update
	for _, typ := range []string{typeTop, typeTarget, typeRefer} { // in no useful order
		for name := range from[typ] {
			if _, ok := to[typ][name]; !ok {
				out = append(out, remove(typ, name))
			}
		}
		for name, content := range to[typ] {
			if from[typ][name] != content {
				out = append(out, put(typ, name, content))
			}
		}
	}
	return out
}

// step is what happens next: a change to another world, the client takes one response,
// or the connection is lost with what is in it.
type step struct {
	change map[string]map[string]string
	cut    bool
}

func TestNoClientIsEverTorn(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		types := rapid.Permutation([]string{typeTarget, typeRefer, typeTop}).Draw(rt, "order of subscription")
		var steps []step
		for range rapid.IntRange(1, 14).Draw(rt, "steps") {
			var s step
			switch rapid.IntRange(0, 6).Draw(rt, "step") {
			case 0, 1, 2:
				s.change = drawWorld(rt)
			case 3:
				s.cut = true
			}
			steps = append(steps, s)
		}
		var err error
		synctest.Test(t, func(*testing.T) { err = play(types, steps) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// play runs the steps with a client that takes responses one at a time.
func play(types []string, steps []step) error {
	r := newReplica(func(c *xds.ServerConfig) { c.Order = []string{typeTarget, typeRefer, typeTop} })
	defer r.stop()
	r.change()
	p := newProxy(r, "shop/cart-0", nil)
	p.model.check = whole
	p.model.gate = make(chan struct{})
	open := sync.OnceFunc(func() { close(p.model.gate) })
	for _, typ := range types {
		p.Subscribe(typ, xds.Wildcard)
	}
	p.start()
	defer p.stop()
	defer open()
	r.settle()
	world := map[string]map[string]string{}
	for _, s := range steps {
		switch {
		case s.change != nil:
			r.change(difference(world, s.change)...)
			world = s.change
		case s.cut:
			r.cut()
		default:
			select {
			case p.model.gate <- struct{}{}:
			default:
				pass(backoffOver)
			}
		}
		r.settle()
	}
	open()
	pass(backoffOver)
	r.settle()
	pass(backoffOver)
	if err := p.fault(); err != nil {
		return err
	}
	for typ, of := range world {
		for name, content := range of {
			if got := p.held(typ)[name]; got != content {
				return fmt.Errorf("%s %s is %.9q at the client, want %.9q", typ, name, got, content)
			}
		}
		if n := len(p.held(typ)); n != len(of) {
			return fmt.Errorf("the client holds %d of %s, want %d", n, typ, len(of))
		}
	}
	if c := r.Clients(); len(c) != 1 || !c[0].InSync() {
		return fmt.Errorf("clients %+v, want one in sync", c)
	}
	return nil
}
