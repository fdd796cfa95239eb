package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/trust"
)

// TestSecretsDoNotPrint greps for a canary in everything that prints, with the
// secret at the top, in an exported and in an unexported field, behind pointers, in
// slices and maps.
func TestSecretsDoNotPrint(t *testing.T) {
	canary := []byte("canary-canary-canary-canary-3141")
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := key.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	secret := trust.NewSecret(canary)
	sealKey, err := trust.ParseSealKey(canary)
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(t, west)
	own := svid(t, root, shop, nil)
	ownDER, err := own.Key.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	token := trust.Token{Secret: secret, Identity: shop, Expires: time.Unix(1, 0)}
	values := []any{secret, &secret, key, &key, sealKey, token, &token, own, own.Key,
		trust.Snapshot{Key: key}, trust.SnapshotFile("/x", sealKey), newSource(t, own, nil)}
	needles := [][]byte{canary, keyDER[len(keyDER)-100:], secretScalar(keyDER), secretScalar(ownDER)}

	for _, v := range values {
		for form, text := range printed(t, v) {
			for _, n := range needles {
				for enc, e := range map[string]string{
					"raw": string(n), "hex": hex.EncodeToString(n), "HEX": strings.ToUpper(hex.EncodeToString(n)),
					"base64": base64.StdEncoding.EncodeToString(n)[:20], "numbers": strings.Trim(fmt.Sprint(n), "[]"), "a number": new(big.Int).SetBytes(n).String(),
					"hex numbers": strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", n), "[]byte{"), "}"),
				} {
					if strings.Contains(text, e) {
						t.Errorf("%T by %s shows a secret in %s", v, form, enc)
					}
				}
			}
		}
	}
	if !bytes.Equal(secret.Reveal(), canary) {
		t.Error("Reveal does not reveal") // or this test could not fail
	}
	if !secret.Equal(sealKey.Secret) || secret.Equal(trust.Secret{}) {
		t.Error("Equal is wrong")
	}
}

// secretScalar is the private number in the PKCS #8 form of a P-256 key.
func secretScalar(der []byte) []byte {
	i := bytes.Index(der, []byte{0x02, 0x01, 0x01, 0x04, 0x20})
	return der[i+5 : i+37]
}

func printed(t *testing.T, v any) map[string]string {
	t.Helper()
	hidden := struct {
		v any
		p *any
	}{v, &v}
	shown := struct{ V any }{v}
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		out[verb] = fmt.Sprintf(verb, v)
		out[verb+" hidden"] = fmt.Sprintf(verb, hidden)
		out[verb+" shown"] = fmt.Sprintf(verb, shown)
		out[verb+" slice"] = fmt.Sprintf(verb, []any{v, map[string]any{"k": v}})
	}
	for name, m := range map[string]func(any) ([]byte, error){"json": json.Marshal, "xml": xml.Marshal} {
		b, _ := m(v) // an error prints nothing
		out[name] = string(b)
		b, _ = m(shown)
		out[name+" shown"] = string(b)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v, "shown", shown, "hidden", hidden)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v, "shown", shown)
	out["slog"] = log.String()
	var g bytes.Buffer
	_ = gob.NewEncoder(&g).Encode(v)
	out["gob"] = g.String()
	out["error"] = fmt.Errorf("oh: %v", v).Error()
	return out
}

func TestAKeySignsAndSurvivesItsForm(t *testing.T) {
	key, err := trust.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := key.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := trust.ParsePrivateKey(der)
	if err != nil || !again.Matches(key.Public()) {
		t.Errorf("read back: %v", err)
	}
	if _, err := trust.ParsePrivateKey(der[:len(der)-1]); err == nil {
		t.Error("half a key was read")
	}
	if _, err := (trust.PrivateKey{}).CSR(); err == nil {
		t.Error("no key made a request")
	}
	if _, err := (trust.PrivateKey{}).Reveal(); err == nil {
		t.Error("no key was revealed")
	}
}
