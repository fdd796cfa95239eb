package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/isthmus-mesh/isthmus/api"
)

// target is a cluster and the client that asks it.
type target struct {
	cluster string
	client  *api.Client
}

// summary is what commands read of STATE_DIR/mesh.json and GET /v1/local.
type summary struct {
	Console  string `json:"console"`
	Clusters []struct {
		Name string `json:"name"`
	} `json:"clusters"`
}

// directory is the state directory in use.
func (a *app) directory() (string, error) {
	if a.stateDir != "" {
		return a.stateDir, nil
	}
	if a.StateDir == nil {
		return "", errors.New("there is no default state directory here; give --state-dir or --api")
	}
	return a.StateDir()
}

// console returns the client of the local mesh's own API.
func (a *app) console() (*api.Client, summary, error) {
	dir, err := a.directory()
	if err != nil {
		return nil, summary{}, err
	}
	var s summary
	text, err := os.ReadFile(filepath.Join(dir, "mesh.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s, fmt.Errorf("no local mesh runs in %s; start one with isthmus up, or name another with --state-dir or --api", dir)
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err == nil && (s.Console == "" || len(s.Clusters) == 0) {
		err = errors.New("it names no console or no cluster")
	}
	if err != nil {
		return nil, s, fmt.Errorf("read the local mesh of %s: %w", dir, err)
	}
	token, err := a.readToken(dir)
	if err != nil {
		return nil, s, err
	}
	return &api.Client{BaseURL: s.Console, Token: token, HTTP: a.HTTP, Warn: a.warner()}, s, nil
}

// warner prints what servers warn of, each text once a command.
func (a *app) warner() func(string) {
	var mu sync.Mutex
	said := map[string]bool{}
	return func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if !said[text] {
			said[text] = true
			fmt.Fprintln(a.Err, "warning: "+text)
		}
	}
}

func (a *app) readToken(dir string) (string, error) {
	if a.token != "" {
		return a.token, nil
	}
	if t := a.Getenv("ISTHMUS_TOKEN"); t != "" {
		return t, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return "", fmt.Errorf("find the token: %w; give --token", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// all lists the clusters that can be asked: the local mesh's, or those behind --api.
func (a *app) all(ctx context.Context) ([]target, error) {
	var c *api.Client
	var s summary
	if a.apiURL == "" {
		var err error
		if c, s, err = a.console(); err != nil {
			return nil, err
		}
	} else {
		dir, _ := a.directory() // only for the token
		token, err := a.readToken(dir)
		if err != nil {
			return nil, err
		}
		c = &api.Client{BaseURL: strings.TrimSuffix(a.apiURL, "/"), Token: token, HTTP: a.HTTP, Warn: a.warner()}
		err = c.Do(ctx, http.MethodGet, "/v1/local", nil, "", &s)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Status == http.StatusNotFound { // a control plane's own
			v, err := c.Version(ctx)
			return []target{{string(v.Cluster), c}}, err
		}
		if err != nil {
			return nil, err
		}
	}
	var out []target
	for _, x := range s.Clusters {
		out = append(out, target{x.Name, &api.Client{BaseURL: c.BaseURL + "/v1/clusters/" + x.Name, Token: c.Token, HTTP: c.HTTP, Warn: c.Warn}})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the API at %s names no cluster", c.BaseURL)
	}
	return out, nil
}

// targets are the clusters that a command asks: --cluster, --all-clusters, else the first,
// or all if every is set.
func (a *app) targets(ctx context.Context, every bool) ([]target, error) {
	all, err := a.all(ctx)
	if err != nil {
		return nil, err
	}
	if a.cluster != "" {
		t, err := named(all, a.cluster)
		return []target{t}, err
	}
	if a.allClusters || every {
		return all, nil
	}
	return all[:1], nil
}

func named(all []target, cluster string) (target, error) {
	var names []string
	for _, t := range all {
		if t.cluster == cluster {
			return t, nil
		}
		names = append(names, t.cluster)
	}
	return target{}, fmt.Errorf("there is no cluster %q; write one of %s", cluster, strings.Join(names, ", "))
}

// bound is ctx with the time that a command may take.
func (a *app) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}
