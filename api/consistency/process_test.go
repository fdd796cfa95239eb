package consistency_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api/consistency"
	"github.com/isthmus-mesh/isthmus/xds"
)

// TestAProcessSaysWhatItIs holds the metrics of a control plane against its state; of two roots the one that expires first
// counts, and what is no certificate does not.
func TestAProcessSaysWhatItIs(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := func(until int64) []byte {
		c := &x509.Certificate{SerialNumber: big.NewInt(until), NotAfter: time.Unix(until, 0), IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	got := consistency.Process{Cluster: "eu-west", Ready: true, Facts: 12, Roots: [][]byte{root(2_000_000_000), root(1_900_000_000), []byte("none")},
		Discovery: xds.Counters{Streams: 3, Responses: 40, Refused: 1, Resources: map[string]uint64{"type.isthmus.dev/v1/Name": 7}}}.Text()
	for _, want := range []string{
		`isthmus_control_plane_ready{cluster="eu-west"} 1`,
		`isthmus_world_facts{cluster="eu-west"} 12`,
		`isthmus_ca_roots{cluster="eu-west"} 3`,
		`isthmus_ca_root_expiry_timestamp_seconds{cluster="eu-west"} 1900000000`,
		`isthmus_xds_streams_total{cluster="eu-west"} 3`,
		`isthmus_xds_responses_total{cluster="eu-west"} 40`,
		`isthmus_xds_refused_total{cluster="eu-west"} 1`,
		`isthmus_xds_resources_total{cluster="eu-west",type="Name"} 7`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no line %s in\n%s", want, got)
		}
	}
	if none := (consistency.Process{Cluster: "eu-west"}).Text(); strings.Contains(none, "expiry") || !strings.Contains(none, `ready{cluster="eu-west"} 0`) {
		t.Errorf("of one that is not ready and has no root:\n%s", none)
	}
}
