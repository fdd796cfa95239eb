package tunnel_test

import (
	"crypto/tls"
	"net/netip"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/tunnel"
)

// rawClient shakes hands without a certificate and returns how that ends.
func rawClient(t testing.TB, addr netip.AddrPort, name string) error {
	t.Helper()
	c, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPN}})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Read(make([]byte, 1))
	return err
}
