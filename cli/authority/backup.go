package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/spf13/cobra"

	"github.com/isthmus-mesh/isthmus/api/authority"
)

// passphraseLeast is how many characters a passphrase has at least: the file may lie somewhere for years.
const passphraseLeast = 12

// fileMax bounds what is read of files.
const fileMax = 4 << 20

func (a *Terms) backupCommand() *cobra.Command {
	c := &cobra.Command{Use: "backup FILE", Args: cobra.ExactArgs(1), Short: "write the key of a cluster's root to a file, sealed",
		Long: "The file is an age file (age-encryption.org), sealed to a recipient (age1…) or by a passphrase, and made anew: one that is there\n" +
			"is not overwritten. The key is not printed, and leaves the control plane sealed. Who opens the file can sign for every proxy of\n" +
			"the cluster: keep it where nobody reaches it by way of the cluster, and make another after each isthmus trust rotate.",
		Example: "  isthmus trust backup eu-west.age --cluster eu-west --recipient age1…\n  isthmus trust backup eu-west.age --cluster eu-west --passphrase-file secret"}
	return a.sealed(c, "recipient", "seal to this age recipient (age-keygen makes one)", "seal by the passphrase in this file; - is standard input",
		"the cluster whose key is backed up", a.backup)
}

// sealed gives a command of one file what the file is sealed with: a key, which the flag names, or a passphrase.
func (a *Terms) sealed(c *cobra.Command, flag, help, passphraseHelp, clusterHelp string,
	run func(ctx context.Context, t Cluster, path, key, passphrase string) error) *cobra.Command {
	var key, passphrase string
	c.Flags().StringVar(&key, flag, "", help)
	c.Flags().StringVar(&passphrase, "passphrase-file", "", passphraseHelp)
	c.MarkFlagsMutuallyExclusive(flag, "passphrase-file")
	c.MarkFlagsOneRequired(flag, "passphrase-file")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := a.one(cmd.Context())
		if err != nil {
			return err
		}
		return run(cmd.Context(), t, args[0], key, passphrase)
	}
	a.Cluster(c, clusterHelp)
	a.Output(c)
	return c
}

func (a *Terms) backup(ctx context.Context, t Cluster, path, recipient, passphrase string) error {
	fail := func(err error) error { return fmt.Errorf("back up the key of %s to %s: %w", t.Name, path, err) }
	var own *age.X25519Identity // to whom it is sealed on its way here, where a passphrase seals the file
	var by *age.ScryptRecipient
	if passphrase != "" {
		text, err := a.passphrase(passphrase)
		if err == nil {
			by, err = age.NewScryptRecipient(text)
		}
		if err == nil {
			own, err = age.GenerateX25519Identity()
		}
		if err == nil && a.Work != 0 {
			by.SetWorkFactor(a.Work)
		}
		if err != nil {
			return fail(err)
		}
		recipient = own.Recipient().String()
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fail(err)
	}
	var out authority.Sealed
	err = a.send(ctx, t, "backup", authority.Ask{Recipient: recipient}, &out)
	if err == nil {
		err = writeArmoured(file, out.Sealed, own, by)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(fail(err), os.Remove(path))
	}
	if !a.Plain() {
		return a.Value(out.Status)
	}
	_, err = fmt.Fprintf(a.Out, "the key of %s (bundle generation %d) is in %s, sealed; who opens it can sign for the cluster\n", t.Name, out.Generation, path)
	return err
}

// writeArmoured writes a sealed backup as text; one that was sealed to own is sealed by a passphrase instead.
func writeArmoured(to io.Writer, sealed []byte, own *age.X25519Identity, by *age.ScryptRecipient) error {
	text := armor.NewWriter(to)
	if own == nil {
		_, err := text.Write(sealed)
		return errors.Join(err, text.Close())
	}
	if err := reseal(text, bytes.NewReader(sealed), own, by); err != nil {
		return err
	}
	return text.Close()
}

// reseal opens what is sealed to from, and seals it to to.
func reseal(out io.Writer, in io.Reader, from age.Identity, to age.Recipient) error {
	plain, err := age.Decrypt(in, from)
	if err != nil {
		return err
	}
	w, err := age.Encrypt(out, to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, plain); err != nil {
		return err
	}
	return w.Close()
}

func (a *Terms) restoreCommand() *cobra.Command {
	c := &cobra.Command{Use: "restore FILE", Args: cobra.ExactArgs(1), Short: "bring a lost key of a cluster's root back from a backup",
		Long: "Opens a file of isthmus trust backup, and gives the key to the control plane, sealed to it. The roots stay as they are: the key\n" +
			"comes back to the root that should sign. It is refused while the control plane has its key, and where another root signs by now,\n" +
			"which an older key would undo (exit code 1): then isthmus trust rotate rolls out a new root.",
		Example: "  isthmus trust restore eu-west.age --cluster eu-west --identity key.txt\n  isthmus trust restore eu-west.age --cluster eu-west --passphrase-file secret"}
	return a.sealed(c, "identity", "open with the age identities in this file (AGE-SECRET-KEY-1…)", "open by the passphrase in this file; - is standard input",
		"the cluster whose key is restored", a.restore)
}

func (a *Terms) restore(ctx context.Context, t Cluster, path, identity, passphrase string) error {
	fail := func(err error) error { return fmt.Errorf("restore the key of %s from %s: %w", t.Name, path, err) }
	keys, err := a.identities(identity, passphrase)
	if err != nil {
		return fail(err)
	}
	s, err := a.get(ctx, t)
	if err != nil {
		return fail(err)
	}
	to, err := age.ParseX25519Recipient(s.Recipient)
	if err != nil {
		return fail(fmt.Errorf("the control plane names nobody to seal it to: %w", err))
	}
	file, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	var sealed bytes.Buffer
	for _, key := range keys {
		if _, err = file.Seek(0, io.SeekStart); err != nil {
			return fail(err)
		}
		sealed.Reset()
		var other *age.NoIdentityMatchError
		if err = reseal(&sealed, armor.NewReader(io.LimitReader(file, fileMax)), key, to); !errors.As(err, &other) {
			break
		}
	}
	if err != nil {
		return fail(fmt.Errorf("open it: %w", err))
	}
	if s, err = a.post(ctx, t, "restore", authority.Ask{Sealed: sealed.Bytes()}); err != nil {
		return err
	}
	if !a.Plain() {
		return a.Value(s)
	}
	return a.print([]authority.Status{s})
}

// identities are the keys that may open a file.
func (a *Terms) identities(identity, passphrase string) ([]age.Identity, error) {
	if passphrase != "" {
		text, err := a.passphrase(passphrase)
		if err != nil {
			return nil, err
		}
		key, err := age.NewScryptIdentity(text)
		return []age.Identity{key}, err
	}
	file, err := os.Open(identity)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	keys, err := age.ParseIdentities(io.LimitReader(file, fileMax))
	if err != nil {
		return nil, fmt.Errorf("read %s: not a file of age identities", identity) // the cause may quote a key
	}
	return keys, nil
}

// passphrase reads the first line of a file.
func (a *Terms) passphrase(path string) (string, error) {
	in := a.In
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, fileMax))
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); len([]rune(line)) < passphraseLeast {
		return "", fmt.Errorf("the passphrase has %d characters, want %d at least", len([]rune(line)), passphraseLeast)
	}
	return line, nil
}
