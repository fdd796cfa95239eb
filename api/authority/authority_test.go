package authority

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/api"
	"github.com/isthmus-mesh/isthmus/control/authority"
	"github.com/isthmus-mesh/isthmus/control/ca"
)

// keeper says what a test has it say.
type keeper struct {
	state authority.State
	err   error
	did   string
}

func (k *keeper) State() authority.State        { return k.state }
func (k *keeper) Recipient() string             { return "age1here" }
func (k *keeper) Begin(context.Context) error   { k.did += "begin "; return k.err }
func (k *keeper) Abandon(context.Context) error { k.did += "abandon "; return k.err }
func (k *keeper) Force(context.Context) error   { k.did += "force "; return k.err }
func (k *keeper) Backup(to string) ([]byte, error) {
	k.did += "backup " + to + " "
	return []byte("sealed"), k.err
}
func (k *keeper) Restore(_ context.Context, text []byte) error {
	k.did += "restore " + string(text) + " "
	return k.err
}

// call asks one path; the error is the refusal.
func call(k *keeper, path, body string) (string, error) {
	w := httptest.NewRecorder()
	err := Handlers("eu-west", "eu-west.isthmus.local", k)[path](w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
	return w.Body.String(), err
}

func TestEachPathDoesOneThing(t *testing.T) {
	k := &keeper{}
	for _, c := range []struct{ path, body string }{
		{"POST /v1/trust/rotate", `{}`}, {"POST /v1/trust/rotate", `{"abandon":true}`}, {"POST /v1/trust/rotate", `{"force":true}`},
		{"POST /v1/trust/backup", `{"recipient":"age1x"}`}, {"POST /v1/trust/restore", `{"sealed":"dGV4dA=="}`},
	} {
		if _, err := call(k, c.path, c.body); err != nil {
			t.Errorf("%s %s: %v", c.path, c.body, err)
		}
	}
	if want := "begin abandon force backup age1x restore text "; k.did != want {
		t.Errorf("did %q, want %q", k.did, want)
	}
	if out, err := call(k, "POST /v1/trust/backup", `{}`); err != nil || !strings.Contains(out, `"sealed":"c2VhbGVk"`) {
		t.Errorf("%s, %v", out, err)
	}
}

// TestRefusalsSayWhatToDo: what asking again would not change has a status of its own, and does nothing.
func TestRefusalsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{authority.ErrRecipient, 400}, {authority.ErrBackup, 400}, {ca.ErrUndoes, 409}, {ca.ErrNothingLost, 409}, {ca.ErrKeyLost, 409}, {ca.ErrPhase, 409},
		{&ca.GateError{Phase: ca.PhaseIntroduced, Wait: "x"}, 409}, {errors.New("the store is away"), 0},
	} {
		_, err := call(&keeper{err: c.err}, "POST /v1/trust/rotate", `{}`)
		var refused *api.Error
		errors.As(err, &refused)
		if err == nil || (refused != nil) != (c.status != 0) || refused != nil && refused.Status != c.status {
			t.Errorf("%v: %v, want status %d", c.err, err, c.status)
		}
	}
	k := &keeper{}
	for _, body := range []string{`{"forced":true}`, `{`, ``} {
		var refused *api.Error
		if _, err := call(k, "POST /v1/trust/rotate", body); !errors.As(err, &refused) || refused.Status != 400 || k.did != "" {
			t.Errorf("%s: %v, did %q", body, err, k.did)
		}
	}
}

// TestStatusTellsEachRootApart.
func TestStatusTellsEachRootApart(t *testing.T) {
	k := &keeper{state: authority.State{Rotation: ca.Rotation{Phase: ca.PhaseIntroduced, Generation: 2, Issuer: 1, Other: 2}, Waits: "x",
		Roots: []ca.Root{{Number: 1, Issues: true, Ends: time.Unix(1, 0), Live: 3}, {Number: 2, Key: true}}, Lost: ca.ErrKeyLost}}
	out, err := call(k, "GET /v1/trust", "")
	var s Status
	if err := errors.Join(err, json.Unmarshal([]byte(out), &s)); err != nil {
		t.Fatal(err)
	}
	if s.Signs || s.Problem == "" || s.Waits != "x" || len(s.Roots) != 2 || s.Roots[0].Role != "lost" || s.Roots[0].Certificates != 3 || s.Roots[1].Role != "next" || s.OldUntil != nil {
		t.Errorf("%s", out)
	}
	if m := Metrics("eu-west", k); !strings.Contains(m, `isthmus_ca_signs{cluster="eu-west"} 0`) || !strings.Contains(m, `{cluster="eu-west",phase="introduced"} 1`) {
		t.Error(m)
	}
	k.state = authority.State{Rotation: ca.Rotation{Phase: ca.PhaseIssuing, Issuer: 2, Other: 1, OldUntil: time.Unix(5, 0)}, Roots: []ca.Root{{Number: 2, Issues: true, Key: true}, {Number: 1, Key: true}}}
	if s := Of("eu-west", "eu-west.isthmus.local", k); !s.Signs || s.Roots[0].Role != "signs" || s.Roots[1].Role != "last" || s.OldUntil.Unix() != 5 {
		t.Errorf("%+v", s)
	}
}
