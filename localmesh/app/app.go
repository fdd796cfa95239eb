// Package app is what workloads of the local mesh run: echo, which tells what reached it,
// the shop, whose services call each other through the mesh, and the shim around a user's
// own command.
//
// Its one idea: an answer says where it came from. Every response is one line of JSON that
// names the service, cluster, instance and the caller that the mesh authenticated, so that
// a shell with curl sees what the mesh did.
//
// It deliberately knows nothing of the mesh: it is a plain HTTP server on its own address, which answers
// datagrams at the same port, and calls others through an HTTP proxy, as any application would. A request may ask it to
// be slow, to fail, or to be big, for tests: see [Knobs].
//
// Read [Config] and [Run] first.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// What Run runs.
const (
	Echo = "echo"
	Shop = "shop"
	Exec = "exec"
)

// Config is one instance of a workload, as JSON.
type Config struct {
	Service   string           `json:"service"`
	Namespace string           `json:"namespace"`
	Cluster   mesh.ClusterName `json:"cluster"`
	Region    mesh.Region      `json:"region"`
	Zone      mesh.Zone        `json:"zone,omitempty"`
	Instance  string           `json:"instance"`
	Listen    netip.AddrPort   `json:"listen"`
	Proxy     netip.AddrPort   `json:"proxy"`             // the sidecar's explicit proxy
	Lanes     int              `json:"lanes,omitempty"`   // requests that echo and shop serve at once; 0 is no limit
	Command   []string         `json:"command,omitempty"` // of Exec, and its arguments
	Env       []string         `json:"env,omitempty"`     // added to the command's environment
	Dir       string           `json:"dir,omitempty"`     // where the command runs
	// Supervised says, to Exec, that this process leads a process group of its own, which it
	// ends with itself, and that descriptor 4 is for the command to hold.
	Supervised bool                `json:"supervised,omitempty"`
	Calls      map[string][]string `json:"calls,omitempty"` // of Shop; DefaultCalls unless set
}

// DefaultCalls are whom each service of the shop calls, services of its own namespace.
func DefaultCalls() map[string][]string {
	return map[string][]string{"frontend": {"catalog", "cart"}, "catalog": {"reviews"}}
}

// ReadConfig reads a configuration; a field that does not exist is a fault.
func ReadConfig(r io.Reader) (Config, error) {
	var c Config
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("read the workload's configuration: %w", err)
	}
	return c, nil
}

// drainMax bounds the end of requests in flight.
const drainMax = time.Second

// Run runs what ("echo", "shop" or "exec") until ctx ends, and returns nil then. A command
// that ends by itself is an error, *ExitError where it failed.
func Run(ctx context.Context, what string, c Config, log *slog.Logger) error {
	switch what {
	case Echo, Shop:
	case Exec:
		return run(ctx, c)
	default:
		return fmt.Errorf("run workload %q: want %s, %s or %s", what, Echo, Shop, Exec)
	}
	if !c.Listen.IsValid() {
		return fmt.Errorf("run workload %s: listen: missing", c.Instance)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", c.Listen.String())
	if err != nil {
		return fmt.Errorf("run workload %s: %w", c.Instance, err)
	}
	ctx, stop := context.WithCancel(ctx)
	datagrams := answerDatagrams(ctx, ln.Addr().String(), c, log)
	err = serve(ctx, ln, Handler(what, c, log))
	stop()
	<-datagrams
	return err
}

func serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 20, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainMax)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}
