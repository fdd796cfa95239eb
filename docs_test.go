package isthmus

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReasonsAreDocumented holds docs/reasons.md against mesh/reason.go, in both
// directions: users look up what a header says.
func TestReasonsAreDocumented(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "mesh/reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			lit, ok := spec.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("mesh.%s is not a literal", name.Name)
			}
			if v, err := strconv.Unquote(lit.Value); err != nil {
				t.Fatal(err)
			} else if v != "" {
				inCode[v] = true
			}
		}
		return false
	})
	if len(inCode) == 0 {
		t.Fatal("mesh/reason.go has no reasons")
	}
	text, err := os.ReadFile("docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	inDocs := map[string]int{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		inDocs[m[1]]++
	}
	for r := range inCode {
		if inDocs[r] != 1 {
			t.Errorf("reason %s has %d rows in docs/reasons.md, want 1", r, inDocs[r])
		}
	}
	for r := range inDocs {
		if !inCode[r] {
			t.Errorf("docs/reasons.md explains %s, which is no mesh.Reason", r)
		}
	}
}

// documents are all Markdown files of the repository.
func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"docs", "docs/adr", "docs/guides", "docs/reference"} {
		more, err := filepath.Glob(dir + "/*.md")
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, more...)
	}
	if len(docs) == 0 {
		t.Fatal("there are no documents")
	}
	return docs
}

// TestLinksOfDocumentsLead finds links to files that are not there.
func TestLinksOfDocumentsLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
	}
}

// TestDocumentsNameTestsThatExist finds tests, benchmarks and fuzz targets that a document
// cites as proof and no package has.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	declared := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w*)\(`).FindAllStringSubmatch(string(src), -1) {
			declared[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z0-9]\\w*)`")
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		var missing []string
		for _, m := range names.FindAllStringSubmatch(string(text), -1) {
			if !declared[m[1]] && !slices.Contains(missing, m[1]) {
				missing = append(missing, m[1])
			}
		}
		if len(missing) > 0 {
			t.Errorf("%s cites %s, which no package has", doc, strings.Join(missing, ", "))
		}
	}
}

// TestDocumentsNameCodeThatExists holds links of the form [`Name`](file.go) against the
// declarations of the file's package: a name that moved to the next file is still found.
func TestDocumentsNameCodeThatExists(t *testing.T) {
	link := regexp.MustCompile("\\[`([\\w.]+)`\\]\\(([^)]+\\.go)\\)")
	for _, doc := range documents(t) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			dir := filepath.Dir(filepath.Join(filepath.Dir(doc), m[2]))
			files, err := filepath.Glob(dir + "/*.go")
			if err != nil {
				t.Fatal(err)
			}
			if name := m[1][strings.LastIndexByte(m[1], '.')+1:]; !slices.ContainsFunc(files, func(f string) bool { return declares(t, f, name) }) {
				t.Errorf("%s says that %s declares %s, and it does not", doc, dir, m[1])
			}
		}
	}
}

// declares reports whether a file declares a function, method, type, constant or variable.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.Name == name {
				return true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.Name == name {
						return true
					}
				case *ast.ValueSpec:
					if slices.ContainsFunc(spec.Names, func(n *ast.Ident) bool { return n.Name == name }) {
						return true
					}
				}
			}
		}
	}
	return false
}
