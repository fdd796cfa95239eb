package e2e

import (
	"bufio"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/foreign"
)

var interopRounds = flag.Int("interop", 1, "how many times each path is asked all cases of gRPC's interop suite")

const (
	interopClient = "google.golang.org/grpc/interop/client"
	interopServer = "google.golang.org/grpc/interop/server"
)

// interopCases are all of gRPC's that need no credentials of a cloud, but pick_first_unary: it wants the server to tell its
// name, which that of grpc-go does not. Whether a call is answered is theirs to judge, how
// soon is not: the soaks' own patience is too short beside other tests.
var interopCases = [][]string{{"empty_unary"}, {"large_unary"}, {"client_streaming"}, {"server_streaming"}, {"ping_pong"}, {"empty_stream"},
	{"timeout_on_sleeping_server"}, {"cancel_after_begin"}, {"cancel_after_first_response"}, {"status_code_and_message"},
	{"special_status_message"}, {"custom_metadata"}, {"unimplemented_method"}, {"unimplemented_service"},
	{"rpc_soak", "--soak_num_threads=4", "--soak_iterations=20", "--soak_per_iteration_max_acceptable_latency_ms=60000", "--soak_overall_timeout_seconds=60"},
	{"channel_soak", "--soak_per_iteration_max_acceptable_latency_ms=60000", "--soak_overall_timeout_seconds=60"},
	{"orca_per_rpc", orcaBalancer}, {"orca_oob", orcaBalancer}}

// orcaBalancer is what makes the client of those cases look at reports of load.
const orcaBalancer = `--service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`

func (f *foreignClients) cases(t *testing.T, env []string, host, port string) {
	t.Helper()
	for range *interopRounds {
		for _, args := range interopCases {
			foreignRun(t, env, f.interop, append([]string{"--use_tls=false", "--server_host=" + host, "--server_port=" + port, "--test_case=" + args[0]}, args[1:]...)...)
		}
	}
}

func (f *foreignClients) grpc(t *testing.T) {
	host, port, _ := net.SplitHostPort(f.address["grpc"])
	f.cases(t, nil, host, port)
}

// grpcInTunnel goes by the explicit proxy, as grpc-go does where the environment names one: by
// CONNECT, so that the mesh carries bytes.
func (f *foreignClients) grpcInTunnel(t *testing.T) {
	f.cases(t, []string{"HTTPS_PROXY=http://" + f.m.address(0, 0, 1, 15001), "NO_PROXY="}, "grpc.demo.svc.clusterset.local", "80")
}

// letOut lets requests leave the mesh.
const letOut = `apiVersion: isthmus.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {outbound: AllowAny}
`

// grpcOutside asks a server outside the mesh, so that exactly one proxy stands between, and speaks HTTP/2 on both of its
// sides. The client knows no proxy that takes its calls as they are: it is given one that takes a CONNECT to anywhere
// and brings it to ours as the bytes of a connection.
func (f *foreignClients) grpcOutside(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	server := exec.Command(foreign.Tool(t, interopServer), "--port="+port)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	eventually(t, 10*time.Second, "the server outside listens", func() (string, bool) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return err.Error(), false
		}
		return "", c.Close() == nil
	})
	side, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { side.Close() })
	go sidestep(side, f.m.address(0, 0, 1, 15001))
	// 0.0.0.0 leads to this host, and is not among the addresses for which grpc-go asks no proxy.
	f.cases(t, []string{"HTTPS_PROXY=http://" + side.Addr().String(), "NO_PROXY=", "no_proxy="}, "0.0.0.0", port)
}

// sidestep answers each CONNECT with a connection to one address.
func sidestep(ln net.Listener, to string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			if q, err := http.ReadRequest(r); err != nil || q.Method != http.MethodConnect {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer up.Close()
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(up, r)
				_ = up.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, up)
		}()
	}
}
