package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/isthmus-mesh/isthmus/control/ca"
	"github.com/isthmus-mesh/isthmus/trust"
)

// Keys leave and enter only sealed to a key of the other side (age, X25519): a backup to one that who asks names, what is restored
// to one that this process made for itself and that ends with it.

// backupMax bounds what is restored.
const backupMax = 1 << 20

// ErrRecipient says that a backup cannot be sealed to what was given.
var ErrRecipient = errors.New("not a recipient of age")

// ErrBackup says that what was sent to be restored cannot be opened.
var ErrBackup = errors.New("not a backup sealed to this control plane")

// Recipient is whom a backup is sealed to that is restored here.
func (a *Authority) Recipient() string { return a.escrow.Recipient().String() }

// Backup is the authority, keys included, sealed to an age recipient ("age1…").
func (a *Authority) Backup(recipient string) ([]byte, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	secret, err := a.CA.Backup()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write(secret.Reveal())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal the backup: %w", err)
	}
	a.mesh.Wrote(Act{"authority_backed_up", "a person asked for a backup of the key, sealed to " + recipient, "who opens it can sign for this cluster"})
	return out.Bytes(), nil
}

// Restore brings the authority's keys back from a backup that was sealed to Recipient.
func (a *Authority) Restore(ctx context.Context, sealed []byte) error {
	r, err := age.Decrypt(bytes.NewReader(sealed), a.escrow)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(r, backupMax))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if err := a.act(ctx, func() (Act, error) {
		return Act{"authority_restored", "a person restored the key of the certificate authority from a backup", "certificates are renewed again"}, a.CA.Restore(ctx, trust.NewSecret(text))
	}); err != nil {
		return err
	}
	if a.Source.Current().SVID == nil {
		return a.issueOwn()
	}
	return nil
}

// State is how the authority stands, for people.
type State struct {
	Rotation ca.Rotation
	Roots    []ca.Root
	// Lost is why nothing can be signed, nil while it can.
	Lost error
	// Waits is what the next step waits for.
	Waits string
}

// State is how it stands now.
func (a *Authority) State() State {
	return State{a.CA.Rotation(), a.CA.Roots(), a.CA.Signs(), a.Waits()}
}
