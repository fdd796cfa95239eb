package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/api/forecast"
	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/core/drift"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Client calls one control plane's API. Its zero value is not useful: set BaseURL and
// Token. It is safe for concurrent use. Errors that the server answered are *Error.
type Client struct {
	// BaseURL is what stands before /v1, such as http://127.11.0.2:15080.
	BaseURL string
	Token   string
	// HTTP is nil for http.DefaultClient.
	HTTP *http.Client
	// Warn, where set, is told what a server warns of beside its answer.
	Warn func(string)
}

// answerBytesMax bounds an answer that is not a stream.
const answerBytesMax = 256 << 20

// Do sends a request and decodes the JSON answer into out, unless it is nil; a *[]byte gets
// the answer as it is.
func (c *Client) Do(ctx context.Context, method, path string, body io.Reader, contentType string, out any) error {
	resp, err := c.send(ctx, method, path, body, contentType)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return fmt.Errorf("%s %s%s: read the answer: %w", strings.ToLower(method), c.BaseURL, path, err)
	}
	switch to := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*to = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s%s: understand the answer: %w", strings.ToLower(method), c.BaseURL, path, err)
	}
	return nil
}

// send returns an answer of status 2xx, or its error.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader, contentType string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.BaseURL, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("call the API at %s: %w", c.BaseURL, err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := cmp.Or(c.HTTP, http.DefaultClient).Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // it repeats method and URL
		}
		return nil, fmt.Errorf("call the API at %s: %w", c.BaseURL, err)
	}
	c.warn(resp.Header)
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	e := &Error{}
	if json.Unmarshal(text, e) != nil || e.Problem == "" {
		e = &Error{Op: strings.ToLower(method), Object: c.BaseURL + path, Problem: "the server answered " + resp.Status}
	}
	e.Status = resp.StatusCode
	return nil, e
}

// warn passes on warnings: code, agent, then a quoted text.
func (c *Client) warn(h http.Header) {
	for _, v := range h.Values("Warning") {
		if _, quoted, ok := strings.Cut(v, " - "); ok && c.Warn != nil {
			if text, err := strconv.Unquote(quoted); err == nil {
				c.Warn(text)
			}
		}
	}
}

func (c *Client) get(ctx context.Context, path string, out any) error {
	return c.Do(ctx, http.MethodGet, path, nil, "", out)
}

// ApplyOptions say how to apply.
type ApplyOptions struct {
	Namespace string // of objects that name none
	DryRun    bool   // everything but the write
}

// Apply sends all files at once. A refusal is an *Error whose ApplyResult lists all
// faults, or what was written before it failed.
func (c *Client) Apply(ctx context.Context, files []File, o ApplyOptions) (*ApplyResult, error) {
	q := url.Values{}
	if o.Namespace != "" {
		q.Set("namespace", o.Namespace)
	}
	if o.DryRun {
		q.Set("dryRun", "server")
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, f := range files {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", multipart.FileContentDisposition(f.Name, "file"))
		h.Set("Content-Type", "application/yaml")
		part, err := form.CreatePart(h)
		if err == nil {
			_, err = part.Write(f.Text)
		}
		if err != nil {
			return nil, fmt.Errorf("apply %s: %w", f.Name, err)
		}
	}
	if err := form.Close(); err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	out := &ApplyResult{}
	return out, c.Do(ctx, http.MethodPost, "/v1/apply?"+q.Encode(), &body, form.FormDataContentType(), out)
}

// ListOptions bound a list or watch.
type ListOptions struct {
	Namespace string // "" is all
	Labels    string // a label selector
}

func (o ListOptions) query() url.Values {
	q := url.Values{}
	if o.Namespace != "" {
		q.Set("namespace", o.Namespace)
	}
	if o.Labels != "" {
		q.Set("labelSelector", o.Labels)
	}
	return q
}

// List lists the objects of a kind.
func (c *Client) List(ctx context.Context, kind manifest.Kind, o ListOptions) ([]json.RawMessage, error) {
	var out List
	err := c.get(ctx, "/v1/objects/"+kind.Plural+"?"+o.query().Encode(), &out)
	return out.Items, err
}

// Watch calls see with each event until ctx ends, see fails, or the server ends the
// stream, which is an error too.
func (c *Client) Watch(ctx context.Context, kind manifest.Kind, o ListOptions, see func(Event) error) error {
	q := o.query()
	q.Set("watch", "1")
	resp, err := c.send(ctx, http.MethodGet, "/v1/objects/"+kind.Plural+"?"+q.Encode(), nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var e Event
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("watch %s at %s: the stream ended: %w", kind.Plural, c.BaseURL, err)
		}
		if err := see(e); err != nil {
			return err
		}
	}
}

func objectPath(kind manifest.Kind, namespace, name string) string {
	if !kind.Namespaced {
		namespace = NoNamespace
	}
	return "/v1/objects/" + kind.Plural + "/" + url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// Get returns one object.
func (c *Client) Get(ctx context.Context, kind manifest.Kind, namespace, name string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.get(ctx, objectPath(kind, namespace, name), &out)
	return out, err
}

// Delete removes one object.
func (c *Client) Delete(ctx context.Context, kind manifest.Kind, namespace, name string, dryRun bool) error {
	path := objectPath(kind, namespace, name)
	if dryRun {
		path += "?dryRun=server"
	}
	return c.Do(ctx, http.MethodDelete, path, nil, "", nil)
}

// Status returns how the cluster stands.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := &Status{}
	return out, c.get(ctx, "/v1/status", out)
}

// Proxies lists the proxies connected to the control plane.
func (c *Client) Proxies(ctx context.Context) ([]Proxy, error) {
	var out struct{ Proxies []Proxy }
	err := c.get(ctx, "/v1/proxies", &out)
	return out.Proxies, err
}

// ProxyConfig returns what a proxy runs, as JSON; id is "namespace/workload".
func (c *Client) ProxyConfig(ctx context.Context, id string) (json.RawMessage, error) {
	namespace, workload, _ := strings.Cut(id, "/")
	var out json.RawMessage
	err := c.get(ctx, "/v1/proxies/"+url.PathEscape(namespace)+"/"+url.PathEscape(workload)+"/config", &out)
	return out, err
}

// Explain returns what would become of a request.
func (c *Client) Explain(ctx context.Context, q ExplainRequest) (*Explanation, error) {
	v := url.Values{"src": {q.Source}, "dst": {q.Destination}, "header": q.Headers}
	for name, value := range map[string]string{"method": q.Method, "path": q.Path, "namespace": q.Namespace} {
		if value != "" {
			v.Set(name, value)
		}
	}
	out := &Explanation{}
	return out, c.get(ctx, "/v1/explain?"+v.Encode(), out)
}

// Forecast returns what the loss of clusters or regions would do; users are forecast.UsersMove or UsersGone.
func (c *Client) Forecast(ctx context.Context, lost []string, users string) (*forecast.Answer, error) {
	out := &forecast.Answer{}
	return out, c.get(ctx, "/v1/forecast?"+url.Values{"lost": {strings.Join(lost, ",")}, "users": {users}}.Encode(), out)
}

// Version returns the control plane's version.
func (c *Client) Version(ctx context.Context) (VersionInfo, error) {
	var out VersionInfo
	err := c.get(ctx, "/v1/version", &out)
	return out, err
}

// Digests returns what the cluster says of what it tells, holds and had acknowledged.
func (c *Client) Digests(ctx context.Context) (*drift.Said, error) {
	out := &drift.Said{}
	return out, c.get(ctx, "/v1/digests", out)
}

// DigestObjects returns the digests of the buckets of what another cluster is told (side "tells") or of what is held of
// it ("holds"), or the objects of the buckets that are named; see package consistency.
func (c *Client) DigestObjects(ctx context.Context, side, cluster, buckets string) (*consistency.Objects, error) {
	out := &consistency.Objects{}
	return out, c.get(ctx, "/v1/digests/"+side+"/"+url.PathEscape(cluster)+"?buckets="+buckets, out)
}

// Bundle returns what verifies the cluster's identities.
func (c *Client) Bundle(ctx context.Context) (mesh.Bundle, error) {
	var out Bundle
	err := c.get(ctx, "/v1/bundle", &out)
	return mesh.Bundle{TrustDomain: out.TrustDomain, Roots: out.Roots, Generation: out.Generation}, err
}

// NewToken returns a join token for an identity.
func (c *Client) NewToken(ctx context.Context, id mesh.Identity) (string, error) {
	ask, err := json.Marshal(map[string]string{"identity": id.String()})
	if err != nil {
		return "", fmt.Errorf("ask for a join token for %s: %w", id, err)
	}
	var out struct{ Token string }
	err = c.Do(ctx, http.MethodPost, "/v1/tokens", bytes.NewReader(ask), "application/json", &out)
	return out.Token, err
}
