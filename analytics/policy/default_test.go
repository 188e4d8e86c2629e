package policy_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"carom/analytics/control"
	"carom/analytics/policy"
	"carom/analytics/reputation"
	"carom/analytics/suppression"
)

var update = flag.Bool("update", false, "write default.yaml and the document anew")

const page = "../../deploy/docs/policy.md"

// comments returns the comments of the fields of every struct in a package, by struct and field. Of
// several fields that share one, the first has it.
func comments(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), folder+"/"+entry.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			all[spec.Name.Name] = ""
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					all[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()+" "+field.Comment.Text()), " ")
				}
			}
			return true
		})
	}
	return all
}

// capital finds what may be the name of a field in a comment.
var capital = regexp.MustCompile(`\b[A-Z][A-Za-z]*\b`)

// render writes a struct as YAML with its comments.
func render(b *strings.Builder, v reflect.Value, said, words map[string]string, indent string) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		word := field.Tag.Get("yaml")
		if text := said[v.Type().Name()+"."+field.Name]; text != "" {
			for line := range strings.SplitSeq(wrap(capital.ReplaceAllStringFunc(text, func(name string) string { return cmp.Or(words[name], name) }), 110-len(indent)), "\n") {
				fmt.Fprintf(b, "%s# %s\n", indent, line)
			}
		}
		if d, ok := reflect.TypeAssert[time.Duration](v.Field(i)); ok {
			fmt.Fprintf(b, "%s%s: %s\n", indent, word, short(d))
		} else if v.Field(i).Kind() == reflect.Struct {
			fmt.Fprintf(b, "%s%s:\n", indent, word)
			render(b, v.Field(i), said, words, indent+"  ")
		} else {
			fmt.Fprintf(b, "%s%s: %v\n", indent, word, v.Field(i).Interface())
		}
	}
}

// short writes a duration without zero parts: 2h, not 2h0m0s.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

func wrap(text string, width int) string {
	var b strings.Builder
	length := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i > 0 && length+1+len(word) > width:
			b.WriteByte('\n')
			length = 0
		case i > 0:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}

// fieldNames replaces the names of Go's fields in comments by the words of the file.
func fieldNames(v reflect.Type, into map[string]string) {
	for f := range v.Fields() {
		into[f.Name] = f.Tag.Get("yaml")
		if f.Type.Kind() == reflect.Struct {
			fieldNames(f.Type, into)
		}
	}
}

// The text that carom policy print shows, and the document, say what the structs say.
func TestDefaultText(t *testing.T) {
	var b strings.Builder
	b.WriteString("# The policy of carom analytics without a file: every word with its default. A file needs only what differs.\n\n" +
		"# How far the loop goes: active changes limits, advise writes down what it would do, off does nothing.\nmode: advise\n\n" +
		"# What differs at a provider: its mode, and any of the thresholds below.\nproviders: {}\n#  yahoo:\n#    mode: active\n#    thresholds:\n#      decrease: {below-accepted: 0.85}\n")
	for _, part := range []struct {
		word, about, folder string
		value               any
	}{
		{"thresholds", "When the loop changes the limit of a (provider, source), and by how much.", "../control", control.Default()},
		{"reputation", "How scores are computed; they change no limit.", "../reputation", reputation.Default()},
		{"suppression", "When bounces suppress.", "../suppression", suppression.Default()},
	} {
		v := reflect.ValueOf(part.value)
		words := map[string]string{}
		fieldNames(v.Type(), words)
		fmt.Fprintf(&b, "\n# %s\n%s:\n", part.about, part.word)
		render(&b, v, comments(t, part.folder), words, "  ")
	}
	b.WriteString("\n# Who is told of complaints, and of what the loop does, by POST (see jobs.md). Without them nobody is.\n" +
		"# complaint-webhook: {url: https://ops.example.com/complaints, secret-file: /etc/carom/webhook.secret}\n" +
		"# change-webhook: {url: https://ops.example.com/changes, secret-file: /etc/carom/webhook.secret}\n")
	want := b.String()
	document, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(document), "```yaml\n# The policy of")
	_, after, ok := strings.Cut(rest, "\n```\n")
	if !ok {
		t.Fatalf("%s has no place for the text", page)
	}
	wantPage := before + "```yaml\n" + want + "```\n" + after
	if *update {
		for name, text := range map[string]string{"default.yaml": want, page: wantPage} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	if diff := gocmp.Diff(want, policy.Text); diff != "" {
		t.Errorf("default.yaml (-structs +file), write it with -update:\n%s", diff)
	}
	if string(document) != wantPage {
		t.Errorf("%s does not say what the structs say, write it with -update", page)
	}
	p, err := policy.Parse([]byte(policy.Text))
	if err != nil {
		t.Fatal(err)
	}
	p.Hash = policy.Default().Hash
	p.Providers = nil
	if diff := gocmp.Diff(policy.Default(), p); diff != "" {
		t.Errorf("the text is not the default (-default +text):\n%s", diff)
	}
}
