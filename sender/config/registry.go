package config

import (
	_ "embed"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Status says what carom does with a directive.
type Status string

// The statuses of directives.
const (
	Implemented Status = "implemented" // it does what its documentation says
	Alias       Status = "alias"       // another name for the directive that Note names
	Planned     Status = "planned"     // known and accepted; it has no effect yet, for the reason in Note
	NoEffect    Status = "no-effect"   // accepted; it will never have an effect, for the reason in Note
)

// Directive is one row of the registry: a name in one kind of section.
type Directive struct {
	Scope  string `json:"scope"` // the section's name, or "global"
	Name   string `json:"name"`
	Status Status `json:"status"`
	Note   string `json:"note,omitempty"`
	// Value says how the value is written, Default what counts where the directive does not stand, as
	// the language writes it. Both are empty for directives whose value is not read.
	Value   string `json:"value,omitempty"`
	Default string `json:"default,omitempty"`
}

// directive is the row of an implemented directive that sets a part of a T.
type directive[T any] struct {
	Directive
	// compile checks a value and returns what puts it into a T.
	compile func(*value) (func(*T), error)
	// show returns what a T holds in the directive's place, as the language writes it.
	show func(*T) string
}

// scope is a kind of section with the directives that may stand in it.
type scope[T any] struct {
	name string
	rows map[string]directive[T]
}

// globalScope is the name of the scope outside all sections.
const globalScope = "global"

// registry lists every known directive by scope and name. Scopes of implemented sections add
// their rows when they are made, at the start of the program; names.txt adds the rest.
var registry = map[string]map[string]Directive{}

func register(d Directive) {
	if registry[d.Scope] == nil {
		registry[d.Scope] = map[string]Directive{}
	}
	registry[d.Scope][d.Name] = d
}

func newScope[T any](name string, rows ...directive[T]) *scope[T] {
	s := &scope[T]{name: name, rows: map[string]directive[T]{}}
	for _, row := range rows {
		row.Scope = name
		if row.compile == nil {
			row.compile = s.rows[row.Note].compile
		}
		row.Value = wanted(row.compile)
		register(row.Directive)
		s.rows[row.Name] = row
	}
	return s
}

// withDefaults tells the registry what holds in the scope where nothing is written.
func (s *scope[T]) withDefaults(base func() T) *scope[T] {
	for name, row := range s.rows {
		if row.Status != Alias {
			t := base()
			row.Default = row.show(&t)
			register(row.Directive)
			s.rows[name] = row
		}
	}
	return s
}

// wanted returns how a value is written: what the parser says of one that is missing.
func wanted[T any](compile func(*value) (func(*T), error)) string {
	_, err := compile(&value{})
	if err == nil {
		return ""
	}
	_, want, _ := strings.Cut(err.Error(), "want ")
	return want
}

// one is a directive that sets a field; the last one in a section wins.
func one[T, V any](name string, parse parser[V], field func(*T) *V) directive[T] {
	return directive[T]{
		Directive: Directive{Name: name, Status: Implemented},
		compile: func(v *value) (func(*T), error) {
			parsed, err := parse(v)
			return func(t *T) { *field(t) = parsed }, err
		},
		show: func(t *T) string { return show(*field(t)) },
	}
}

// many is a directive that may be repeated; each adds to a field.
func many[T, V any](name string, parse parser[V], field func(*T) *[]V) directive[T] {
	return directive[T]{
		Directive: Directive{Name: name, Status: Implemented},
		compile: func(v *value) (func(*T), error) {
			parsed, err := parse(v)
			return func(t *T) { *field(t) = append(*field(t), parsed) }, err
		},
		show: func(t *T) string {
			all := make([]string, len(*field(t)))
			for i, v := range *field(t) {
				all[i] = show(v)
			}
			return strings.Join(all, ", ")
		},
	}
}

// alias is another name for a directive whose row stands before it.
func alias[T any](name, target string) directive[T] {
	return directive[T]{Directive: Directive{Name: name, Status: Alias, Note: target}}
}

// formerly is row under an old name whose values are written differently.
func formerly[T any](target string, row directive[T]) directive[T] {
	row.Status, row.Note = Alias, target
	return row
}

// planned is row whose value is checked and kept although nothing acts on it yet, for the reason.
func planned[T any](reason string, row directive[T]) directive[T] {
	row.Status, row.Note = Planned, reason
	return row
}

// orZero is row that shows its zero value as the word that the language has for it.
func orZero[T any](word string, row directive[T]) directive[T] {
	var zero T
	shown, nothing := row.show, row.show(&zero)
	row.show = func(t *T) string {
		if s := shown(t); s != nothing {
			return s
		}
		return word
	}
	return row
}

// show writes a value the way the configuration language does.
func show(v any) string {
	switch x := v.(type) {
	case Secret:
		if x.IsZero() {
			return ""
		}
	case bool:
		if x {
			return "yes"
		}
		return "no"
	case time.Duration:
		return FormatDuration(x)
	case []time.Duration:
		all := make([]string, len(x))
		for i, d := range x {
			all[i] = FormatDuration(d)
		}
		return strings.Join(all, ",")
	case []string:
		return strings.Join(x, ",")
	case []RecordType:
		all := make([]string, len(x))
		for i, t := range x {
			all[i] = string(t)
		}
		return strings.Join(all, ",")
	case *url.URL:
		if x == nil {
			return ""
		}
		return x.String()
	case time.Time:
		if x.IsZero() {
			return ""
		}
		return x.Format(time.DateOnly)
	}
	return fmt.Sprint(v)
}

// Directives returns every directive that the language has in carom, sorted by scope and name.
func Directives() []Directive {
	var all []Directive
	for _, rows := range registry {
		for _, d := range rows {
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b Directive) int {
		if c := strings.Compare(a.Scope, b.Scope); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

//go:embed names.txt
var namesText string

// A package's variables are made before its init functions run, so all rows written in Go are
// in the registry by now; they win over those of names.txt.
func init() {
	for line := range strings.Lines(namesText) {
		parts := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(parts) != 4 || strings.HasPrefix(line, "#") {
			continue // an empty line or a comment
		}
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		for name := range strings.FieldsSeq(parts[3]) {
			if _, ok := registry[parts[0]][name]; !ok {
				register(Directive{Scope: parts[0], Name: name, Status: Status(parts[1]), Note: parts[2]})
			}
		}
	}
}

// assignment is one directive of a section, checked and ready to be put into a T.
type assignment[T any] struct {
	row   *directive[T]
	pos   Pos
	apply func(*T)
}

// read checks the directives among nodes and hands each to sink; sections go to section.
func (s *scope[T]) read(b *builder, nodes []*node, sink func(assignment[T]), section func(*node)) {
	for _, n := range nodes {
		if n.IsSection {
			section(n)
			continue
		}
		row, ok := s.rows[n.Name]
		if !ok {
			b.inertDirective(s.name, n)
			continue
		}
		v := newValue(n, b.loader)
		apply, err := row.compile(v)
		if err != nil {
			b.add(n.Name, n.ValuePos, err)
			continue
		}
		switch row.Status {
		case Alias:
			row = s.rows[row.Note]
		case Planned:
			b.warnInert(n.Pos, row.Directive)
		case Implemented, NoEffect:
		}
		sink(assignment[T]{&row, n.Pos, apply})
	}
}

// fill is read for a section whose directives take effect at once and that holds no sections.
func (s *scope[T]) fill(b *builder, n *node, target *T) {
	s.read(b, n.Children, func(a assignment[T]) { a.apply(target) }, b.misplaced(n))
}

// layer is read for a section whose directives are kept, to be merged with others later.
func (s *scope[T]) layer(b *builder, n *node) []assignment[T] {
	var all []assignment[T]
	s.read(b, n.Children, func(a assignment[T]) { all = append(all, a) }, b.misplaced(n))
	return all
}
