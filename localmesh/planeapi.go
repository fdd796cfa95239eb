package localmesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/trust"
)

// planeAPI speaks to the API of one control plane. It is safe for concurrent use.
type planeAPI struct {
	cluster mesh.ClusterName
	process string // of one control plane; "" for whichever of the cluster's answers
	address netip.AddrPort
	token   trust.Secret
	client  *http.Client
}

const (
	callTimeout   = 5 * time.Second
	answerMaxByte = 16 << 20
)

// dialAny dials the API of a control plane, and where that refuses, that of another replica of it.
func (p *Plan) dialAny(ctx context.Context, network, address string) (net.Conn, error) {
	addresses := []string{address}
	for _, c := range p.Clusters {
		for i := 1; address == p.api(c).String() && i < c.Planes(); i++ {
			addresses = append(addresses, at(p.Layout.Replica(c.N, i), portAPI).String())
		}
	}
	var d net.Dialer
	var faults []error
	for _, a := range addresses {
		conn, err := d.DialContext(ctx, network, a)
		if err == nil {
			return conn, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

// bundle is what verifies a cluster's identities.
type bundle struct {
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Roots       [][]byte         `json:"roots"`
	Generation  uint64           `json:"generation"`
}

// planeStatus is what a control plane says of itself, of the others and of its proxies.
type planeStatus struct {
	Cluster mesh.ClusterName `json:"cluster"`
	Ready   bool             `json:"ready"`
	Peers   []statusPeer     `json:"peers"`
	Proxies []statusProxy    `json:"proxies"`
}

type statusPeer struct {
	Cluster mesh.ClusterName `json:"cluster"`
	InSync  bool             `json:"inSync"`
	State   string           `json:"state"`
}

type statusProxy struct {
	ID        string `json:"id"`
	Connected bool   `json:"connected"`
	InSync    bool   `json:"inSync"`
}

// refusedError is an answer that asking again would not change.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// call sends a request and reads its answer into out, unless out is nil.
func (a *planeAPI) call(ctx context.Context, method, path, contentType string, body []byte, out any) error {
	fail := func(err error) error { return fmt.Errorf("%s %s of %s: %w", method, path, a.cluster, err) }
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.address.String()+path, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Authorization", "Bearer "+string(a.token.Reveal()))
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMaxByte))
	switch {
	case err != nil:
		return fail(err)
	case resp.StatusCode >= 500:
		return fail(fmt.Errorf("status %d: %s", resp.StatusCode, short(text)))
	case resp.StatusCode >= 300:
		return fail(&refusedError{resp.StatusCode, short(text)})
	case method == http.MethodGet && resp.Header.Get("Warning") != "": // an old answer, while the store is away
		return fail(errors.New(resp.Header.Get("Warning")))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fail(fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

func short(text []byte) string {
	const most = 2000
	text = bytes.TrimSpace(text)
	if len(text) > most {
		return string(text[:most]) + " …"
	}
	return string(text)
}

// persist repeats what fails until it succeeds, is refused, or ctx ends: a control plane that
// is starting answers late.
func persist(ctx context.Context, do func() error) error {
	for {
		err := do()
		var refused *refusedError
		if err == nil || errors.As(err, &refused) {
			return err
		}
		if !sleep(ctx, pollEvery) {
			return err
		}
	}
}

// bundle waits until the API answers and returns the cluster's roots.
func (a *planeAPI) bundle(ctx context.Context) (bundle, error) {
	var b bundle
	err := persist(ctx, func() error { return a.call(ctx, http.MethodGet, "/v1/bundle", "", nil, &b) })
	if err == nil && len(b.Roots) == 0 {
		err = fmt.Errorf("GET /v1/bundle of %s: it holds no roots", a.cluster)
	}
	return b, err
}

func (a *planeAPI) apply(ctx context.Context, yaml []byte) error {
	return persist(ctx, func() error { return a.call(ctx, http.MethodPost, "/v1/apply", "application/yaml", yaml, nil) })
}

func (a *planeAPI) status(ctx context.Context) (planeStatus, error) {
	var s planeStatus
	err := a.call(ctx, http.MethodGet, "/v1/status", "", nil, &s)
	return s, err
}

// joinToken makes a token for id, once the API answers.
func (a *planeAPI) joinToken(ctx context.Context, id mesh.Identity) (string, error) {
	question, err := json.Marshal(map[string]string{"identity": id.String()})
	if err != nil {
		return "", err
	}
	var answer struct {
		Token string `json:"token"`
	}
	err = persist(ctx, func() error {
		return a.call(ctx, http.MethodPost, "/v1/tokens", "application/json", question, &answer)
	})
	return answer.Token, err
}
