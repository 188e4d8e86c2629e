package account

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"carom/schemas/event"
)

// RecordOptions say which events become records, and what is in them.
type RecordOptions struct {
	Records []string // PowerMTA's letters: d b t tq r rb rs f
	// Fields are the fields of a record type in their order: "*" for the default ones, "!name" for
	// one less, "header_NAME", and for f "arf_NAME". A type without an entry has "*".
	Fields     map[string][]string
	Headers    []HeaderField // map-header-to-field, in the order of the configuration
	UserString string        // fills the field userString; with "" that is no default field
	UnixTimes  bool          // seconds since 1970 instead of ISO times

	// Queue says whether records of a queue are wanted; nil: of all. Only d, b, t and tq have one.
	Queue func(queue string) bool
	// Skip says which events are left out although their type is in Records; nil: none.
	Skip func(e *event.Event) bool
	// Privacy hides the recipients; nil: they are shown.
	Privacy *Privacy
	// Rejects makes the records those of a reject log, with the letters c, for a refused connection,
	// and r, for a refused message or recipient.
	Rejects bool
}

// HeaderField puts the value of a header into a field, where the message has the header. Of several
// for one field the first with a value counts.
type HeaderField struct{ Type, Header, Field string }

// Layout turns events into lines of CSV (RFC 4180) in PowerMTA's format. It is not safe for
// concurrent use.
type Layout struct {
	options RecordOptions
	names   []string
	table   []column    // what there is to choose from
	records [256][]cell // by event.Kind; nil for kinds without a record
	zone    *time.Location
	logged  stamped // the two times of a record
	queued  stamped
	scratch event.Event // of which the recipient is hidden
}

// stamped is a second as it is written.
type stamped struct {
	second int64
	text   []byte
}

// letters lists PowerMTA's record types.
var letters = []string{"d", "b", "t", "tq", "r", "rb", "rs", "f"}

// refusedConnection is the place of Layout.records for what is no event of a message.
const refusedConnection event.Kind = 0

// letter returns the record type of a kind, "" for none.
func (l *Layout) letter(k event.Kind) string {
	switch {
	case !l.options.Rejects:
		return k.PowerMTA()
	case k == refusedConnection:
		return "c"
	case k == event.Rejected:
		return "r"
	}
	return ""
}

// kinds returns all kinds that may have a record.
func kinds() []event.Kind { return append(event.Kinds(), refusedConnection) }

// NewLayout returns a layout. It fails for a record type or a field that does not exist.
func NewLayout(o RecordOptions) (*Layout, error) {
	l, all := &Layout{options: o, zone: time.Local, table: columns}, letters
	if o.Rejects {
		l.table, all = rejectColumns, []string{"c", "r"}
	}
	for _, letter := range o.Records {
		if !slices.Contains(all, letter) {
			return nil, fmt.Errorf("unknown record type %q; want %s", letter, strings.Join(all, ", "))
		}
	}
	fields, err := l.choose()
	if err != nil {
		return nil, err
	}
	l.compile(fields)
	return l, l.mapHeaders()
}

// choose returns the columns of all record types together: the default ones of those types that have
// "*" in PowerMTA's order, at the place of the first "*", the others where they are named first.
func (l *Layout) choose() (map[string][]column, error) {
	o := l.options
	chosen := map[string][]column{}
	starred := map[string]bool{} // default columns that "*" stands for
	for _, letter := range o.Records {
		list, err := l.fields(letter)
		if err != nil {
			return nil, fmt.Errorf("record type %s: %w", letter, err)
		}
		chosen[letter] = list
		for _, c := range list {
			if c.starred {
				starred[c.name] = true
			}
		}
	}
	l.names = []string{"type"}
	add := func(name string) {
		if !slices.Contains(l.names, name) {
			l.names = append(l.names, name)
		}
	}
	for _, letter := range o.Records {
		for _, c := range chosen[letter] {
			if !c.starred {
				add(c.name)
				continue
			}
			for _, d := range l.table {
				if starred[d.name] {
					add(d.name)
				}
			}
		}
	}
	return chosen, nil
}

// fields returns the columns of one record type in the order in which its list names them.
func (l *Layout) fields(letter string) ([]column, error) {
	list, ok := l.options.Fields[letter]
	onlyLess := !slices.ContainsFunc(list, func(name string) bool { return !strings.HasPrefix(name, "!") })
	if !ok || onlyLess {
		list = append([]string{"*"}, list...)
	}
	var all []column
	var less []string
	add := func(c column) {
		if !slices.ContainsFunc(all, func(had column) bool { return had.name == c.name }) {
			all = append(all, c)
		}
	}
	for _, name := range list {
		switch {
		case name == "*":
			for _, c := range l.table {
				if c.holds(letter) && (c.name != userString || l.options.UserString != "") {
					c.starred = true
					add(c)
				}
			}
			if letter == "f" {
				for _, name := range complaintHeaders {
					add(headerColumn("header_" + name))
				}
			}
		case strings.HasPrefix(name, "!"):
			less = append(less, name[1:])
		default:
			c, ok := l.columnOf(name)
			if !ok {
				return nil, fmt.Errorf("unknown field %q", name)
			}
			add(c)
		}
	}
	return slices.DeleteFunc(all, func(c column) bool {
		return slices.ContainsFunc(less, func(name string) bool { return strings.EqualFold(name, c.name) })
	}), nil
}

// compile works out what each kind of event writes into the columns.
func (l *Layout) compile(fields map[string][]column) {
	for _, kind := range kinds() {
		letter := l.letter(kind)
		list, ok := fields[letter]
		if !ok {
			continue
		}
		cells := make([]cell, len(l.names))
		cells[0] = text(func(*event.Event) string { return letter })
		for _, c := range list {
			if c.cell == nil || !c.has(letter) {
				continue
			}
			cells[slices.Index(l.names, c.name)] = c.cell
		}
		l.records[kind] = cells
	}
}

// mapHeaders puts headers before the fields that they are mapped to.
func (l *Layout) mapHeaders() error {
	for _, m := range slices.Backward(l.options.Headers) { // the first one ends up outermost
		c, ok := l.columnOf(m.Field)
		if !ok {
			return fmt.Errorf("map-header-to-field: unknown field %q", m.Field)
		}
		i := slices.Index(l.names, c.name)
		if i <= 0 {
			continue // the file does not have it
		}
		name := HeaderKey(m.Header)
		for _, kind := range event.Kinds() {
			cells := l.records[kind]
			if cells == nil || kind.PowerMTA() != m.Type || kind == event.QueueDeferred {
				continue
			}
			inner := cells[i]
			cells[i] = func(row []byte, e *event.Event, l *Layout) []byte {
				if value, ok := e.Headers[name]; ok {
					return append(row, value...)
				}
				if inner == nil {
					return row
				}
				return inner(row, e, l)
			}
		}
	}
	return nil
}

// HeaderKey is the name under which an event has the value of a header.
func HeaderKey(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }

// AppendHeader appends the line that names the columns.
func (l *Layout) AppendHeader(row []byte) []byte {
	for i, name := range l.names {
		if i > 0 {
			row = append(row, ',')
		}
		start := len(row)
		row = quote(append(row, name...), start)
	}
	return append(row, '\r', '\n')
}

// Append appends the record of e and reports whether it has one here.
func (l *Layout) Append(row []byte, e *event.Event) ([]byte, bool) {
	cells := l.records[l.place(e)]
	switch o := &l.options; {
	case cells == nil, o.Skip != nil && o.Skip(e):
		return row, false
	case o.Queue != nil && filtered(e.Kind) && !o.Queue(e.Queue):
		return row, false
	case o.Privacy != nil:
		l.scratch = *e
		e = &l.scratch
		o.Privacy.Hide(e)
	}
	for i, cell := range cells {
		if i > 0 {
			row = append(row, ',')
		}
		if cell != nil {
			start := len(row)
			row = quote(cell(row, e, l), start)
		}
	}
	return append(row, '\r', '\n'), true
}

// place returns where records has the cells of an event.
func (l *Layout) place(e *event.Event) event.Kind {
	if l.options.Rejects && e.MessageID == (event.ID{}) {
		return refusedConnection
	}
	return e.Kind
}

// filtered reports whether queue-filter is for the kind.
func filtered(k event.Kind) bool {
	switch k.PowerMTA() {
	case "d", "b", "t", "tq":
		return true
	}
	return false
}

// stamp appends a time. Formatting one costs as much as half a record, and the next record is mostly of
// the same second.
func (l *Layout) stamp(row []byte, t time.Time, last *stamped) []byte {
	second := t.Unix()
	if last.second != second || last.text == nil {
		last.second = second
		if l.options.UnixTimes {
			last.text = fmt.Appendf(last.text[:0], "%d", second)
		} else {
			last.text = t.In(l.zone).AppendFormat(last.text[:0], "2006-01-02 15:04:05-0700")
		}
	}
	return append(row, last.text...)
}
