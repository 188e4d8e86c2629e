package account

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// FileOptions say what an accounting file holds and when a new one is begun.
type FileOptions struct {
	Path       string        // of the configuration; date and serial go before the extension
	Records    []string      // PowerMTA's letters: d b t tq r rb rs f
	MaxBytes   int64         // a new file is begun beyond it; 0 for no bound
	Interval   time.Duration // a new file is begun after it; 0 for never
	UserString string
	UnixTimes  bool // seconds since 1970 instead of ISO times
}

// File is an accounting file in PowerMTA's format: CSV by RFC 4180 with CRLF, the header first,
// named PATH-YYYY-MM-DD-NNNN.csv (User's Guide 5.0, chapter 11). It is not safe for concurrent
// use: the recorder owns it.
type File struct {
	options FileOptions
	fields  []field
	now     func() time.Time

	file   *os.File
	buffer *bufio.Writer
	csv    *csv.Writer
	day    string
	begun  time.Time
	bytes  int64
}

// OpenFile returns an accounting file; it is created by the first record.
func OpenFile(o FileOptions) (*File, error) {
	for _, letter := range o.Records {
		if !slices.Contains(letters, letter) {
			return nil, fmt.Errorf("accounting file %s: unknown record type %q; want %s", o.Path, letter, strings.Join(letters, ", "))
		}
	}
	if err := os.MkdirAll(filepath.Dir(o.Path), 0o750); err != nil {
		return nil, fmt.Errorf("accounting file %s: %w", o.Path, err)
	}
	return &File{options: o, fields: fieldsFor(o), now: time.Now}, nil
}

// letters lists PowerMTA's record types.
var letters = []string{"d", "b", "t", "tq", "r", "rb", "rs", "f"}

// Write adds the record of e, if the file holds its type.
func (f *File) Write(e *event.Event, _ uint64) error {
	letter := e.Kind.PowerMTA()
	if letter == "" || !slices.Contains(f.options.Records, letter) {
		return nil
	}
	if err := f.rotate(); err != nil {
		return err
	}
	row := make([]string, len(f.fields))
	for i, field := range f.fields {
		if field.types == "" || slices.Contains(strings.Fields(field.types), letter) {
			row[i] = field.value(e, f.options)
		}
	}
	return f.write(row)
}

func (f *File) write(row []string) error {
	if err := f.csv.Write(row); err != nil {
		return fmt.Errorf("write %s: %w", f.file.Name(), err)
	}
	for _, cell := range row {
		f.bytes += int64(len(cell)) + 1
	}
	return nil
}

// rotate begins the first file, the first of a day, or the next where this one is full or old.
func (f *File) rotate() error {
	now := f.now()
	day := now.Format(time.DateOnly)
	full := f.options.MaxBytes > 0 && f.bytes >= f.options.MaxBytes
	old := f.options.Interval > 0 && now.Sub(f.begun) >= f.options.Interval
	if f.file != nil && day == f.day && !full && !old {
		return nil
	}
	if err := f.Close(); err != nil {
		return err
	}
	extension := filepath.Ext(f.options.Path)
	base := strings.TrimSuffix(f.options.Path, extension)
	for serial := 0; ; serial++ {
		name := fmt.Sprintf("%s-%s-%04d%s", base, day, serial, extension)
		file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // the operator's own path
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accounting file: %w", err)
		}
		f.file, f.buffer = file, bufio.NewWriterSize(file, 64<<10)
		break
	}
	f.csv = csv.NewWriter(f.buffer)
	f.csv.UseCRLF = true
	f.day, f.begun, f.bytes = day, now, 0
	header := make([]string, len(f.fields))
	for i, field := range f.fields {
		header[i] = field.name
	}
	return f.write(header)
}

// Flush hands what was written to the operating system.
func (f *File) Flush() error {
	if f.file == nil {
		return nil
	}
	f.csv.Flush()
	if err := errors.Join(f.csv.Error(), f.buffer.Flush()); err != nil {
		return fmt.Errorf("write %s: %w", f.file.Name(), err)
	}
	return nil
}

// Close flushes and closes the current file. A later record begins a new one.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	err := errors.Join(f.Flush(), f.file.Close())
	f.file = nil
	return err
}

// field is one column of an accounting file. Types lists the record types that have it, "" all.
type field struct {
	name  string
	types string
	value func(*event.Event, FileOptions) string
}

// fields lists the default fields of all record types in the order in which PowerMTA writes them.
var fields = []field{
	{"type", "", func(e *event.Event, _ FileOptions) string { return e.Kind.PowerMTA() }},
	{"timeLogged", "", func(e *event.Event, o FileOptions) string { return o.stamp(e.Time) }},
	{"timeQueued", "d b t", func(e *event.Event, o FileOptions) string { return o.stamp(e.Time.Add(-e.Queued)) }},
	{"format", "rb rs f", reportFormat},
	{"userAgent", "f", func(e *event.Event, _ FileOptions) string { return e.Headers["User-Agent"] }},
	{"orig", "d b t r rb rs f", func(e *event.Event, _ FileOptions) string { return e.MailFrom }},
	{"rcpt", "d b t r rb rs f", func(e *event.Event, _ FileOptions) string { return e.Recipient }},
	{"orcpt", "d b t r rb rs", func(e *event.Event, _ FileOptions) string { return e.Headers["ORCPT"] }},
	{"dsnAction", "d b t rb rs", action},
	{"dsnStatus", "d b t tq rb rs", status},
	{"dsnDiag", "d b t tq rb rs", diagnostic},
	{"dsnMta", "d b t tq rb rs", func(e *event.Event, _ FileOptions) string { return hostWithIP(e.MXHost, e.MXIP) }},
	{"dsnReportingMta", "rb rs", func(e *event.Event, _ FileOptions) string { return e.ReportingMTA }},
	{"reportingMta", "f", func(e *event.Event, _ FileOptions) string { return e.ReportingMTA }},
	{"feedbackType", "f", func(e *event.Event, _ FileOptions) string { return e.FeedbackType }},
	{"bounceCat", "d b t rb rs", category},
	{"srcType", "d b t r rb rs", func(*event.Event, FileOptions) string { return "smtp" }},
	{"srcMta", "d b t r rb rs", func(e *event.Event, _ FileOptions) string { return hostWithIP(e.ClientMTA, e.ClientIP) }},
	{"rcvSourceIp", "r", func(e *event.Event, _ FileOptions) string { return address(e.ClientIP) }},
	{"rcvDestinationIp", "r", func(e *event.Event, _ FileOptions) string { return listenerIP(e.Listener) }},
	{"dlvType", "d b t tq", func(*event.Event, FileOptions) string { return "smtp" }},
	{"dlvSourceIp", "d b t tq f", func(e *event.Event, _ FileOptions) string { return address(e.SourceIP) }},
	{"dlvDestinationIp", "d b t tq", func(e *event.Event, _ FileOptions) string { return address(e.MXIP) }},
	{"dlvEsmtpAvailable", "d b t", func(e *event.Event, _ FileOptions) string { return e.Headers["ESMTP"] }},
	{"dlvSize", "d", func(e *event.Event, _ FileOptions) string { return strconv.FormatUint(e.Size, 10) }},
	{"vmta", "d b t tq r", func(e *event.Event, _ FileOptions) string { return e.VMTA }},
	{"jobId", "d b t r", func(e *event.Event, _ FileOptions) string { return e.Job }},
	{"envId", "d b t r rb rs f", func(e *event.Event, _ FileOptions) string { return e.EnvID }},
	{"queue", "d b t tq", func(e *event.Event, _ FileOptions) string { return e.Queue }},
	{"vmtaPool", "d b t tq r", func(e *event.Event, _ FileOptions) string { return e.Pool }},
	{"userString", "", func(_ *event.Event, o FileOptions) string { return o.UserString }},
}

// fieldsFor returns the columns of a file: those of its record types, userString only if set.
func fieldsFor(o FileOptions) []field {
	var chosen []field
	for _, f := range fields {
		if f.name == "userString" && o.UserString == "" {
			continue
		}
		types := strings.Fields(f.types)
		if len(types) == 0 || slices.ContainsFunc(o.Records, func(r string) bool { return slices.Contains(types, r) }) {
			chosen = append(chosen, f)
		}
	}
	return chosen
}

func (o FileOptions) stamp(t time.Time) string {
	if o.UnixTimes {
		return strconv.FormatInt(t.Unix(), 10)
	}
	return t.Local().Format("2006-01-02 15:04:05-0700")
}

func address(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.Unmap().String()
}

func hostWithIP(host string, ip netip.Addr) string {
	if !ip.IsValid() {
		return host
	}
	return strings.TrimSpace(host + " (" + address(ip) + ")")
}

func listenerIP(listener string) string {
	ap, err := netip.ParseAddrPort(listener)
	if err != nil {
		return ""
	}
	return address(ap.Addr())
}

func reportFormat(e *event.Event, _ FileOptions) string {
	if e.Kind == event.Complaint {
		return "arf"
	}
	return "dsn"
}

func action(e *event.Event, _ FileOptions) string {
	switch e.Kind {
	case event.Delivered, event.Discarded:
		return "relayed"
	case event.Deferred:
		return "delayed"
	case event.RemoteStatus:
		return e.FeedbackType
	default:
		return "failed"
	}
}

// status writes the enhanced status code, or the one that the reply code implies, with the words
// that PowerMTA puts in brackets.
func status(e *event.Event, _ FileOptions) string {
	code := e.Enhanced
	if code == "" {
		code = map[uint16]string{2: "2.0.0", 4: "4.0.0", 5: "5.0.0"}[e.Code/100]
	}
	if code == "" && e.Kind == event.Expired {
		code = "4.4.7"
	}
	if code == "" && e.Kind != event.Delivered {
		code = "4.4.1"
	}
	enhanced, _ := smtpstatus.ParseEnhanced(code)
	return code + " (" + statusWords(enhanced) + ")"
}

func statusWords(e smtpstatus.Enhanced) string {
	if e.Class == 2 {
		return "success"
	}
	switch [2]uint16{e.Subject, e.Detail} {
	case [2]uint16{1, 1}:
		return "bad destination mailbox address"
	case [2]uint16{1, 2}:
		return "bad destination system address"
	case [2]uint16{4, 1}:
		return "no answer from host"
	case [2]uint16{4, 7}:
		return "delivery time expired"
	case [2]uint16{5, 2}:
		return "syntax error"
	case [2]uint16{7, 1}:
		return "delivery not authorized"
	}
	switch e.Subject {
	case 2:
		return "mailbox-related failure"
	case 3:
		return "mail system-related failure"
	case 5:
		return "protocol-related failure"
	case 7:
		return "other or undefined security status"
	}
	return "undefined status"
}

func diagnostic(e *event.Event, _ FileOptions) string {
	if e.Code == 0 {
		return e.Reply
	}
	return "smtp;" + e.Reply
}

func category(e *event.Event, _ FileOptions) string {
	if e.Kind == event.Delivered {
		return ""
	}
	return e.PMTACategory
}
