package authority

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/isthmus-mesh/isthmus/api"
	door "github.com/isthmus-mesh/isthmus/api/authority"
)

const canary = "the key that nobody may see"

// plane is a control plane that seals canary, and opens what is restored.
func plane(t *testing.T) (c Cluster, seen *bytes.Buffer, restored *string) {
	t.Helper()
	own, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	seen, restored = &bytes.Buffer{}, new(string)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen.Write(body)
		var ask door.Ask
		_ = json.Unmarshal(body, &ask) // a GET has none
		var answer any = door.Status{Cluster: "eu-west", Signs: true, Phase: "stable", Recipient: own.Recipient().String()}
		switch r.URL.Path {
		case "/v1/trust/backup":
			to, err := age.ParseX25519Recipient(ask.Recipient)
			if err != nil {
				t.Error(err)
				return
			}
			var sealed bytes.Buffer
			out, err := age.Encrypt(&sealed, to)
			if err == nil {
				_, err = io.WriteString(out, canary)
			}
			if err = errors.Join(err, out.Close()); err != nil {
				t.Error(err)
			}
			answer = door.Sealed{Sealed: sealed.Bytes()}
		case "/v1/trust/restore":
			in, err := age.Decrypt(bytes.NewReader(ask.Sealed), own)
			if err != nil {
				t.Error(err)
				return
			}
			text, _ := io.ReadAll(in)
			*restored = string(text)
		}
		text, _ := json.Marshal(answer)
		seen.Write(text)
		_, _ = w.Write(text)
	}))
	t.Cleanup(srv.Close)
	return Cluster{"eu-west", &api.Client{BaseURL: srv.URL, HTTP: srv.Client()}}, seen, restored
}

// TestBackupsAreSealed: by a passphrase and to a recipient, a backup comes back whole, and neither file, nor what is printed, nor what
// the API carries shows the key or the passphrase.
func TestBackupsAreSealed(t *testing.T) {
	const phrase = "correct horse battery"
	c, seen, restored := plane(t)
	user, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	identities := file("identities", "# others first\n"+newIdentity(t)+"\n"+user.String()+"\n")
	var printed bytes.Buffer
	a := &Terms{Work: 10, In: strings.NewReader(""), Out: &printed, Err: &printed, Plain: func() bool { return true }, Value: func(any) error { return nil },
		Table: func([]string, [][]string) error { return nil }, Timeout: func() time.Duration { return time.Minute }}
	for name, by := range map[string]struct{ recipient, identity, passphrase string }{
		"passphrase": {passphrase: file("secret", phrase+"\r\nnot this\n")},
		"recipient":  {recipient: user.Recipient().String(), identity: identities},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name+".age")
			if err := a.backup(context.Background(), c, path, by.recipient, by.passphrase); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if info, _ := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			if err := a.backup(context.Background(), c, path, by.recipient, by.passphrase); !errors.Is(err, os.ErrExist) {
				t.Errorf("a second time over the same file: %v", err)
			}
			*restored = ""
			if err := a.restore(context.Background(), c, path, by.identity, by.passphrase); err != nil || *restored != canary {
				t.Fatalf("%q came back, %v", *restored, err)
			}
			for where, b := range map[string][]byte{"the file": text, "what is printed": printed.Bytes(), "the API": seen.Bytes()} {
				if bytes.Contains(b, []byte(canary)) || bytes.Contains(b, []byte(phrase)) {
					t.Errorf("%s shows it", where)
				}
			}
			*restored = ""
			if err := a.restore(context.Background(), c, path, file("other", newIdentity(t)), ""); err == nil || *restored != "" {
				t.Error("opened by somebody else's key")
			}
			if err := a.restore(context.Background(), c, path, "", file("wrong", "incorrect horse")); err == nil || *restored != "" {
				t.Error("opened by another passphrase")
			}
		})
	}
	if err := a.backup(context.Background(), c, filepath.Join(dir, "short.age"), "", file("short", "12345678901")); err == nil || !strings.Contains(err.Error(), "want 12") {
		t.Errorf("a short passphrase: %v", err)
	}
	if err := a.restore(context.Background(), c, filepath.Join(dir, "recipient.age"), file("rubbish", "AGE-SECRET-KEY-1RUBBISH"), ""); err == nil || strings.Contains(err.Error(), "RUBBISH") {
		t.Errorf("a file that is none of identities: %v", err)
	}
}

func newIdentity(t *testing.T) string {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i.String()
}
