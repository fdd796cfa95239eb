package localmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// condition is one thing that must be seen to hold before the mesh is ready.
type condition struct {
	what  string
	check func(context.Context) error
}

const (
	// checkEvery is the pause between two looks at a condition that does not hold yet.
	checkEvery = 20 * time.Millisecond
	// checksAtOnce leaves the cores to those who are looked at.
	checksAtOnce = 8
	checkTimeout = 5 * time.Second
)

// awaitReady returns when the mesh is ready: every control plane in sync
// with every other, every proxy with certificate and acknowledged configuration, every
// workload accepting, and requests from each cluster answered.
func (m *Mesh) awaitReady(ctx context.Context) error {
	// In an order in which one control plane's answer spares asking each of its proxies until
	// it is ready: looking costs the cores that a start needs.
	var missing []string
	for _, conditions := range [][]condition{m.partsReady(), m.proxiesReady(), m.requestsAnswered()} {
		if missing = awaitAll(ctx, conditions); len(missing) > 0 {
			break
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &NotReadyError{m.cfg.ReadyTimeout, append(m.failed(), missing...), m.plan.StateDir}
}

// awaitAll waits until each condition has held once; it returns those that had not when ctx
// ended, and why.
func awaitAll(ctx context.Context, conditions []condition) (missing []string) {
	slots := make(chan struct{}, checksAtOnce)
	faults := make([]error, len(conditions))
	var wg sync.WaitGroup
	for i, c := range conditions {
		wg.Go(func() {
			for {
				faults[i] = checkOnce(ctx, slots, c, faults[i])
				if faults[i] == nil || !sleep(ctx, checkEvery) {
					return
				}
			}
		})
	}
	wg.Wait()
	for i, err := range faults {
		if err != nil {
			missing = append(missing, conditions[i].what+": "+err.Error())
		}
	}
	return missing
}

// checkOnce looks once; before is what the last look said, which says more than that the time
// is over.
func checkOnce(ctx context.Context, slots chan struct{}, c condition, before error) error {
	slots <- struct{}{}
	defer func() { <-slots }()
	once, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := c.check(once)
	if err != nil && ctx.Err() != nil && before != nil {
		return before
	}
	return err
}

// failed names the processes that do not run, and what they said last.
func (m *Mesh) failed() []string {
	var out []string
	for _, p := range m.processes {
		if s := p.status(); s.Last != "" {
			out = append(out, fmt.Sprintf("%s: ended %d times, the last time with: %s: %s", s.Name, s.Restarts+1, s.Last, lastLine(m.plan.logFile(s.Name))))
		}
	}
	return out
}

// partsReady are conditions on control planes, which know their proxies, and applications.
func (m *Mesh) partsReady() []condition {
	var out []condition
	for _, a := range m.replicas {
		out = append(out, condition{"control plane " + a.process, func(ctx context.Context) error {
			s, err := a.status(ctx)
			if err != nil {
				return err
			}
			return s.inSync(m.plan, m.proxyIDs(m.plan.Cluster(a.cluster)))
		}})
	}
	for _, p := range m.processes {
		if p.spec.Role == RoleApp {
			address := at(m.plan.Layout.App(p.spec.Cluster.N, p.spec.Instance.N), p.spec.Instance.Workload.Port).String()
			out = append(out, condition{p.spec.Name, func(ctx context.Context) error {
				var d net.Dialer
				conn, err := d.DialContext(ctx, "tcp", address)
				if err != nil {
					return err
				}
				return conn.Close()
			}})
		}
	}
	return out
}

// proxiesReady asks each proxy itself.
func (m *Mesh) proxiesReady() []condition {
	var out []condition
	client := &http.Client{Transport: m.transport}
	for _, p := range m.processes {
		if config, ok := p.spec.Config.(*proxyConfig); ok {
			out = append(out, condition{p.spec.Name, func(ctx context.Context) error {
				return get(ctx, client, "http://"+config.Admin.String()+"/ready")
			}})
		}
	}
	return out
}

// proxyIDs are the proxies of a cluster.
func (m *Mesh) proxyIDs(c *Cluster) []string {
	var ids []string
	for _, p := range m.processes {
		if config, ok := p.spec.Config.(*proxyConfig); ok && p.spec.Cluster == c {
			ids = append(ids, config.ID)
		}
	}
	return ids
}

// inSync says what a control plane lacks.
func (s planeStatus) inSync(p *Plan, proxies []string) error {
	if !s.Ready {
		return errors.New("it is not ready")
	}
	var lacking []string
	for _, other := range p.Clusters {
		if other.Name == s.Cluster {
			continue
		}
		i := slices.IndexFunc(s.Peers, func(x statusPeer) bool { return x.Cluster == other.Name })
		if i < 0 || !s.Peers[i].InSync || s.Peers[i].State != mesh.Alive.String() {
			lacking = append(lacking, "not in sync with "+string(other.Name))
		}
	}
	for _, id := range proxies {
		i := slices.IndexFunc(s.Proxies, func(x statusProxy) bool { return x.ID == id })
		switch {
		case i < 0 || !s.Proxies[i].Connected:
			lacking = append(lacking, "proxy "+id+" is not connected")
		case !s.Proxies[i].InSync:
			lacking = append(lacking, "proxy "+id+" has not acknowledged its configuration")
		}
	}
	if len(lacking) > 0 {
		return errors.New(strings.Join(lacking, ", "))
	}
	return nil
}

// requestsAnswered are a request from the shell of each cluster to each built-in service that
// it can reach. A user's command is not asked: a request might mean something to it. With the
// control planes in sync, which takes the links, this also proves the way between each two
// clusters.
func (m *Mesh) requestsAnswered() []condition {
	var out []condition
	for _, c := range m.plan.Clusters {
		shell := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at(m.plan.Layout.Shell(c.N), portOutbound).String()})}}
		for _, s := range m.reachable(c) {
			target := fmt.Sprintf("http://%s.%s.%s:%d/", s.Name, s.Namespace, mesh.ClustersetDomain, s.Port)
			out = append(out, condition{"request from the shell of " + string(c.Name) + " to " + s.Namespace + "/" + s.Name,
				func(ctx context.Context) error { return get(ctx, shell, target) }})
		}
	}
	return out
}

// reachable are the built-in services with an instance that cluster c may call.
func (m *Mesh) reachable(c *Cluster) []ServiceSummary {
	var out []ServiceSummary
	seen := map[mesh.ServiceName]bool{}
	for _, home := range m.plan.Clusters {
		for _, i := range home.Instances {
			w := i.Workload
			if w.Builtin != "" && !seen[i.Service()] && (home == c || w.Export) {
				seen[i.Service()] = true
				out = append(out, ServiceSummary{Namespace: w.Namespace, Name: w.Name, Port: w.ServicePort})
			}
		}
	}
	return out
}

// get asks for a URL that must answer 200.
func get(ctx context.Context, client *http.Client, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMaxByte))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", resp.StatusCode, short(text[:min(len(text), 300)]))
	}
	return nil
}
