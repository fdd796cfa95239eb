package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/control/store"
)

// old answers as a control plane does whose store is away.
type old struct {
	api.Objects
	err *store.StaleError
}

func (o *old) Get(ctx context.Context, key store.Key) (store.Object, error) {
	got, err := o.Objects.Get(ctx, key)
	if o.err == nil {
		return got, err
	}
	if err != nil {
		return got, &store.Error{Op: "get", Key: key, Kind: store.ErrNotFound, Cause: o.err}
	}
	return got, o.err
}

func (o *old) List(ctx context.Context, scope store.Scope) ([]store.Object, int64, error) {
	got, at, err := o.Objects.List(ctx, scope)
	if o.err != nil {
		return got, at, o.err
	}
	return got, at, err
}

func TestReadersAreAnsweredAndWarnedWhileTheStoreIsAway(t *testing.T) {
	objects := &old{}
	s := newSite(t, func(c *api.Config) {
		objects.Objects = c.Objects
		c.Objects = objects
		c.Now = func() time.Time { return noon }
	})
	s.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n")
	objects.err = &store.StaleError{Revision: 7, Heard: noon.Add(-3 * time.Second), Cause: errors.Join(store.ErrUnavailable, errors.New("the disk is \"full\""))}
	var warned []string
	s.client.Warn = func(text string) { warned = append(warned, text) }
	kind, _ := manifest.KindNamed("services")
	for name, read := range map[string]func() (int, error){
		"list": func() (int, error) {
			all, err := s.client.List(s.context(), kind, api.ListOptions{})
			return len(all), err
		},
		"get": func() (int, error) {
			one, err := s.client.Get(s.context(), kind, "shop", "web")
			if !strings.Contains(string(one), "\"name\":\"web\"") {
				return 0, err
			}
			return 1, err
		},
	} {
		warned = nil
		if n, err := read(); err != nil || n != 1 {
			t.Errorf("%s: %d objects, %v", name, n, err)
		}
		if len(warned) != 1 || !strings.Contains(warned[0], "revision 7") || !strings.Contains(warned[0], "3s ago") || !strings.Contains(warned[0], "the disk is \"full\"") {
			t.Errorf("%s warned %q", name, warned)
		}
	}
	warned = nil
	if _, err := s.client.Get(s.context(), kind, "shop", "none"); refusal(t, err).Status != http.StatusNotFound || len(warned) != 1 {
		t.Errorf("what is not known: %v, warned %q", err, warned)
	}
	_, err := s.client.Apply(s.context(), []api.File{{Name: "in.yaml", Text: []byte("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 81}]}\n")}}, api.ApplyOptions{})
	if e := refusal(t, err); e.Status != http.StatusServiceUnavailable || !strings.Contains(e.Problem, "full") {
		t.Errorf("apply: %d %v, want that the store is away", e.Status, e)
	}
}
