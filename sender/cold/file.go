package cold

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"carom/schemas/atomicfile"
	"carom/schemas/clock"
)

// The file is text, a line for each state of a counter; the last one counts:
//
//	WARM <tab> COLD <tab> DOMAIN <tab> FIRST-DAY <tab> DAY <tab> USED <tab> CRC-32 of what is before it
//
// Lines are appended and synced. A last line that is not whole was never relied on. A line without
// names says that nothing may be given away on its day, because a file was damaged; that file is kept
// as NAME.damaged.

// spareLines is how many lines beyond twice the counters a file may have before it is rewritten.
const spareLines = 10_000

// maxFile bounds the size of the file in bytes.
const maxFile = 1 << 30

func appendLine(b []byte, k key, c *counter, used int) []byte {
	start := len(b)
	b = fmt.Appendf(b, "%s\t%s\t%s\t%d\t%d\t%d\t", k.warm, k.cold, k.domain, c.first, c.day, used)
	return fmt.Appendf(b, "%08x\n", crc32.ChecksumIEEE(b[start:]))
}

// parseLine reads a line without its end.
func parseLine(line string) (key, counter, bool) {
	at := strings.LastIndexByte(line, '\t') + 1
	fields := strings.Split(line, "\t")
	if at == 0 || len(fields) != 7 || fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(line[:at]))) != line[at:] {
		return key{}, counter{}, false
	}
	var numbers [3]int
	for i := range numbers {
		n, err := strconv.Atoi(fields[3+i])
		if err != nil || n < 0 {
			return key{}, counter{}, false
		}
		numbers[i] = n
	}
	return key{fields[0], fields[1], fields[2]}, counter{first: numbers[0], day: numbers[1], used: numbers[2]}, true
}

// load reads the file. What is damaged closes the day.
func (s *Store) load() error {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	damaged, err := s.read(io.LimitReader(f, maxFile))
	if damaged == 0 || err != nil {
		return err
	}
	s.closed = s.today
	s.logger.Error("cold quotas are damaged, mail stays on the warm virtual MTA until midnight", "file", s.path, "lines", damaged)
	aside := s.path + ".damaged"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Link(s.path, aside)
}

// read reads lines and returns how many of them are damaged.
func (s *Store) read(from io.Reader) (damaged int, err error) {
	r := bufio.NewReader(from)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return damaged, nil // and the rest was never relied on
		}
		if err != nil {
			return damaged, err
		}
		k, c, ok := parseLine(line[:len(line)-1])
		switch {
		case !ok:
			damaged++
		case k == key{}:
			s.closed = c.day
		default:
			c.reserved, c.asked = c.used, c.used
			s.counters[k] = &c
			s.today = max(s.today, c.day)
		}
	}
}

// commit makes what is pending durable, or waits for who does. It returns false if it cannot be
// done now. The caller holds s.mu, which is released meanwhile.
func (s *Store) commit() bool {
	if s.writing {
		s.written.Wait()
		return s.file != nil
	}
	if s.file == nil {
		if clock.Since(s.failed) < retryWrite {
			return false
		}
		s.pending = nil
		if err := s.rewriteAsked(); err != nil {
			s.fail(err)
			return false
		}
		return true
	}
	if len(s.pending) == 0 {
		return true // the write that just ended had it
	}
	keys := s.pending
	s.pending = nil
	asked := make([]counter, len(keys))
	var b []byte
	for i, k := range keys {
		asked[i] = *s.counters[k]
		b = appendLine(b, k, &asked[i], asked[i].asked)
	}
	s.writing = true
	s.mu.Unlock()
	_, err := s.file.Write(b)
	if err == nil {
		err = s.file.Sync()
	}
	s.mu.Lock()
	s.writing = false
	defer s.written.Broadcast()
	if err != nil {
		s.fail(err)
		return false
	}
	for i, k := range keys {
		if c := s.counters[k]; c.day == asked[i].day {
			c.reserved = max(c.reserved, asked[i].asked)
		}
	}
	if s.lines += len(keys); s.lines > 2*len(s.counters)+spareLines {
		if err := s.rewriteAsked(); err != nil {
			s.fail(err)
		}
	}
	return true
}

// fail closes the file. What it holds of the last write is not known.
func (s *Store) fail(err error) {
	s.logger.Error("cold quotas not written, mail stays on the warm virtual MTA", "file", s.path, "error", err)
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	s.failed = clock.Now()
	for _, c := range s.counters {
		c.asked = c.reserved
	}
}

// rewriteAsked rewrites the file with all that is asked for, which is reserved then.
func (s *Store) rewriteAsked() error {
	before := make(map[*counter]int, len(s.counters))
	for _, c := range s.counters {
		before[c] = c.reserved
		c.reserved = max(c.reserved, c.asked)
	}
	err := s.rewrite()
	if err != nil {
		for c, reserved := range before {
			c.reserved = reserved
		}
	}
	return err
}

// rewrite replaces the file with one that says what is reserved, and opens it for appending.
func (s *Store) rewrite() error {
	var b []byte
	if s.closed == s.today {
		b = appendLine(b, key{}, &counter{first: s.closed, day: s.closed}, 0)
	}
	for k, c := range s.counters {
		b = appendLine(b, k, c, c.reserved)
	}
	if err := atomicfile.Write(s.path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}); err != nil {
		return err
	}
	if s.file != nil {
		_ = s.file.Close() // it is another file by now
		s.file = nil
	}
	file, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	s.file, s.lines = file, len(s.counters)
	return nil
}
