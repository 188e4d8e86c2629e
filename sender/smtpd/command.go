package smtpd

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// What go-smtp is handed in place of what the feeder said.
var (
	handedData  = []byte("DATA\r\n")
	handedEnd   = []byte(".\r\n")
	handedReset = []byte("RSET\r\n")
)

// command looks at a command and returns what go-smtp gets of it: the line itself, or nothing where
// it is answered here.
func (c *conn) command(line []byte) []byte {
	verb, argument := split(line)
	switch verb {
	case "EHLO", "HELO":
		c.greeting = verb
		c.dropChunks()
	case "MAIL":
		line, c.verp = withoutVERP(line)
	case "RSET":
		c.dropChunks()
	case "DATA":
		if c.chunking != nil { // RFC 3030 section 2
			c.reply("503 5.5.1 BDAT has begun")
			return nil
		}
	case "BDAT":
		return c.chunk(argument)
	case "STARTTLS":
		return c.startTLS(argument)
	case "AUTH":
		c.authenticate(argument)
		return nil
	}
	return line
}

// verbs are those that command tells apart.
var verbs = [...]string{"EHLO", "HELO", "MAIL", "RSET", "DATA", "BDAT", "STARTTLS", "AUTH"}

// split returns the verb of a command, if it is one of verbs, and what follows it. It finds a verb
// wherever go-smtp would: four letters and the end of the line or a blank.
func split(line []byte) (verb, argument string) {
	line = bytes.TrimRight(line, "\r\n")
	word, rest, _ := bytes.Cut(line, []byte(" "))
	for _, v := range verbs {
		if len(word) == len(v) && strings.EqualFold(string(word), v) {
			return v, strings.TrimSpace(string(rest))
		}
	}
	return "", ""
}

// withoutVERP takes the keyword VERP, which is PowerMTA's, off the parameters of a MAIL command and
// reports whether it stood there.
func withoutVERP(line []byte) ([]byte, bool) {
	end, quoted := -1, false
	for i := 0; i < len(line) && end < 0; i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			end = i + 1
		}
	}
	if end < 0 {
		return line, false
	}
	parameters := strings.Fields(string(line[end:]))
	others := slices.DeleteFunc(slices.Clone(parameters), func(p string) bool { return strings.EqualFold(p, "VERP") })
	if len(others) == len(parameters) {
		return line, false
	}
	return []byte(strings.Join(append([]string{string(line[:end])}, others...), " ") + "\r\n"), true
}

// offer answers EHLO with what the source allows.
func (c *conn) offer() {
	s := c.session
	c.reply("250-" + c.server.host + " greets " + s.hello)
	c.reply("250-PIPELINING")
	c.reply("250-8BITMIME")
	c.reply("250-ENHANCEDSTATUSCODES")
	if s.source.AllowChunking {
		c.reply("250-CHUNKING")
	}
	if c.offersTLS() {
		c.reply("250-STARTTLS")
	}
	if mechanisms := c.mechanisms(); len(mechanisms) > 0 {
		c.reply("250-AUTH " + strings.Join(mechanisms, " "))
	}
	if s.source.AllowSMTPUTF8 {
		c.reply("250-SMTPUTF8")
	}
	c.reply("250-DSN")
	c.reply("250-VERP")
	c.reply("250-LIMITS RCPTMAX=" + strconv.Itoa(s.maxRecipients())) // RFC 9422
	c.reply("250 SIZE " + strconv.FormatInt(s.maxBytes(), 10))
}

// chunk takes a BDAT command with its octets (RFC 3030). go-smtp never sees one: it gets a DATA
// when the last has come, and finds the message there.
func (c *conn) chunk(argument string) []byte {
	word, rest, _ := strings.Cut(argument, " ")
	n, err := strconv.ParseUint(word, 10, 63)
	if err != nil || rest != "" && !strings.EqualFold(rest, "LAST") {
		c.reply("501 5.5.4 BDAT wants a size, and LAST or nothing")
		c.hangUp() // who knows how many octets follow
		return nil
	}
	if c.session == nil || !c.session.takesChunk() {
		if err := c.skip(int64(n)); err != nil { //nolint:gosec // 63 bits
			c.incomplete(err)
			return nil
		}
		c.reply("503 5.5.1 no transaction that BDAT belongs to")
		return nil
	}
	if c.chunking == nil {
		c.receive(true)
		c.chunking = c.session.newBody()
	}
	if err := c.chunking.chunk(int64(n), c.read); err != nil { //nolint:gosec // 63 bits
		c.incomplete(err)
		return nil
	}
	switch {
	case c.chunking.lost != nil:
		c.reply(c.session.refusal(c.session.message, "", c.session.lost(c.chunking.lost)).Error())
		c.dropChunks()
		c.muted = "250"
		return handedReset
	case rest != "":
		c.muted = "354"
		return handedData
	}
	c.reply("250 2.0.0 continue")
	return nil
}

// skip reads n octets that nobody wants.
func (c *conn) skip(n int64) error {
	scrap := c.server.buffers.scrap()
	defer c.server.buffers.giveBack(scrap)
	for n > 0 {
		got, err := c.read(scrap.b[:min(int64(len(scrap.b)), n)])
		if err != nil {
			return err
		}
		n -= int64(got)
	}
	return nil
}

// incomplete ends the session because a message did not come to its end.
func (c *conn) incomplete(err error) {
	c.server.logger.Debug("message not complete", "error", err, "client", c.client.String())
	c.reply(incomplete.Error()) // for those who still listen
	c.dropChunks()
	c.hangUp()
}

var incomplete = &RefusalError{451, [3]int{4, 4, 2}, "message is incomplete"}

// dropChunks forgets what has come by BDAT.
func (c *conn) dropChunks() {
	if c.chunking != nil {
		c.server.buffers.giveBack(c.chunking.buffer)
		c.chunking = nil
		c.receive(false)
	}
}
