// Package story plays test stories: text archives (golang.org/x/tools/txtar) in which a
// reviewer reads what happens and what comes of it.
//
// Its one idea is that a story is rewritten as it is played: the teller fills the sections
// that are consequences, and the test compares the whole with the file. It knows no section
// and no syntax; those are the teller's. Read Play.
package story

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// Play plays the stories that glob names, each as a parallel subtest named for its file: tell
// overwrites the sections that are consequences with what came of the others, and what
// differs from the file fails the test, or is written into it if update is set.
func Play(t *testing.T, glob string, update bool, tell func(*testing.T, *txtar.Archive)) {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories in %s: %v", glob, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			a := txtar.Parse(want)
			tell(t, a)
			got := txtar.Format(a)
			if update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s tells it differently (-file +now):\n%s", file, diff)
			}
		})
	}
}
