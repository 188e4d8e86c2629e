package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Pos is a place in a configuration file. Line and Column count from 1; Column counts bytes, as
// compilers do, so that it equals the visible column of ASCII text. A zero Line means that no
// line is meant: the whole file, or a built-in default if File is empty too.
type Pos struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String returns file:line:column, less where less is known, or "default" for the zero Pos.
func (p Pos) String() string {
	switch {
	case p == Pos{}:
		return "default"
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is one mistake in a configuration file.
type Error struct {
	Pos     Pos
	Message string
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Message }

// Warning is something in a configuration file that does not do what its author may expect,
// but keeps nothing from running.
type Warning struct {
	Pos     Pos
	Message string
}

// String returns the warning as file:line:column: message.
func (w Warning) String() string { return w.Pos.String() + ": " + w.Message }

// Errors returns the mistakes that err holds, in the order of the files' text. It is empty for
// an err that did not come from Load or Parse.
func Errors(err error) []*Error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // the tree is walked here, node by node
		return []*Error{e}
	}
	var all []*Error
	switch x := err.(type) { //nolint:errorlint // the tree is walked here, node by node
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			all = append(all, Errors(e)...)
		}
	case interface{ Unwrap() error }:
		all = Errors(x.Unwrap())
	}
	return all
}

// report collects mistakes and warnings. Phases find them in different orders; finish sorts
// them into the order of the text.
type report struct {
	mistakes []*Error
	warnings []Warning
	more     int // mistakes beyond maxMistakes, the first of them at moreAt
	moreAt   Pos
	order    map[string]int  // file → when it was first read
	warned   map[string]bool // file and name → warned of already
}

func newReport() *report {
	return &report{order: map[string]int{}, warned: map[string]bool{}}
}

// maxMistakes bounds the mistakes that are told one by one. A file with more is no configuration, and a
// large one would fill the memory with them.
const maxMistakes = 10_000

func (r *report) errorf(pos Pos, format string, args ...any) {
	if len(r.mistakes) == maxMistakes {
		if r.more++; r.more == 1 {
			r.moreAt = pos
		}
		return
	}
	r.mistakes = append(r.mistakes, &Error{pos, fmt.Sprintf(format, args...)})
}

// warnOnce reports message for the first occurrence of name in a file only.
func (r *report) warnOnce(pos Pos, name, message string) {
	if key := pos.File + "\x00" + name; !r.warned[key] {
		r.warned[key] = true
		r.warnings = append(r.warnings, Warning{pos, name + ": " + message})
	}
}

func (r *report) finish() ([]Warning, error) {
	byText := func(a, b Pos) int {
		return cmp.Or(cmp.Compare(r.order[a.File], r.order[b.File]),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	}
	slices.SortStableFunc(r.mistakes, func(a, b *Error) int { return byText(a.Pos, b.Pos) })
	slices.SortStableFunc(r.warnings, func(a, b Warning) int { return byText(a.Pos, b.Pos) })
	if len(r.mistakes) == 0 {
		return r.warnings, nil
	}
	all := make([]error, len(r.mistakes), len(r.mistakes)+1)
	for i, e := range r.mistakes {
		all[i] = e
	}
	if r.more > 0 {
		all = append(all, &Error{r.moreAt, fmt.Sprintf("and %s more: is it a configuration?", plural(r.more, "mistake"))})
	}
	return r.warnings, errors.Join(all...)
}
