package story_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/isthmus-mesh/isthmus/internal/story"
)

// shout is the consequence of "say".
func shout(_ *testing.T, a *txtar.Archive) {
	var said []byte
	for i := range a.Files {
		if a.Files[i].Name == "say" {
			said = a.Files[i].Data
		} else {
			a.Files[i].Data = bytes.ToUpper(said)
		}
	}
}

func TestUpdateWritesWhatPlayThenAccepts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.txtar")
	if err := os.WriteFile(file, []byte("About.\n-- say --\nhello\n-- hear --\nnothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	glob := filepath.Join(filepath.Dir(file), "*.txtar")
	t.Run("update", func(t *testing.T) { story.Play(t, glob, true, shout) })
	t.Run("play", func(t *testing.T) { story.Play(t, glob, false, shout) })
	got, err := os.ReadFile(file)
	if want := "About.\n-- say --\nhello\n-- hear --\nHELLO\n"; err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
