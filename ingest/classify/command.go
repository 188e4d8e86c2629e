package classify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"carom/schemas/service"
	"carom/schemas/smtpstatus"
)

const about = `carom classify says what an SMTP reply or a diagnostic means, and which rule decided.

It takes each argument as one reply; or each line of the files that --file names ("-" is the input);
or, without both, each line of its input. A reply of several lines stands on one, as in a log.

With --explain it lists every rule that matches, in the order in which they count, and says of each
why it did or did not decide. What a receiver said and no rule understood: carom ingest unclassified.

Examples:
  carom classify --phase rcpt "550 5.1.1 <ann@mail.example>: Recipient address rejected: User unknown"
  carom classify --explain --provider yahoo "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred"
  grep 'status=deferred' maillog | carom classify --json
  carom classify --tsv --file monday.txt --file tuesday.txt`

// maxLine is the longest line of input, in bytes; a longer one ends the command with an error.
const maxLine = 1 << 20

// result is a verdict as --json prints it.
type result struct {
	Reply      string `json:"reply"`
	Category   string `json:"category"`
	Group      string `json:"group"`
	Class      string `json:"class"`
	Dimension  string `json:"dimension"`
	Scope      string `json:"scope,omitempty"`
	ScopeValue string `json:"scope_value,omitempty"`
	Rule       string `json:"rule"`
	Source     string `json:"source,omitempty"`
	Version    uint32 `json:"version"`

	Matches []match `json:"matches,omitempty"` // with --explain
}

// Command runs "carom classify". It returns a service.ConfigError for flags that are wrong and the
// errors of stdio, wrapped.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("classify", about, stdio)
	asJSON := flags.Bool("json", false, "print one JSON object a reply")
	asTSV := flags.Bool("tsv", false, "print reply, category and class, with tabs between them; the reply stays as it is")
	explain := flags.Bool("explain", false, "list the other rules that match too, and why they did not decide")
	var files []string
	flags.Func("file", "read replies from this `file`, a line each; may be repeated; \"-\" is the input", func(name string) error {
		files = append(files, name)
		return nil
	})
	provider := flags.String("provider", "", "the receiving `provider`, such as google")
	phaseName := flags.String("phase", "", "where the attempt ended, a `phase`: connect, greeting, mail, rcpt, final-dot, ...")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *asJSON && *asTSV:
		return service.Configf("carom classify: --json and --tsv exclude each other")
	case *explain && *asTSV:
		return service.Configf("carom classify: --explain and --tsv exclude each other")
	case len(files) > 0 && len(flags.Args()) > 0:
		return service.Configf("carom classify: replies as arguments and --file exclude each other")
	}
	phase, err := phaseNamed(*phaseName)
	if err != nil {
		return service.Configf("carom classify: %w", err)
	}
	out := bufio.NewWriter(stdio.Out)
	printer := printText
	switch {
	case *asJSON:
		printer = printJSON
	case *asTSV:
		printer = printTSV
	}
	one := func(reply string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.TrimSpace(reply) == "" {
			return nil
		}
		in := Input{Reply: smtpstatus.Parse(reply), Phase: phase, Provider: *provider}
		r := resultOf(reply, Classify(in))
		if *explain {
			r.Matches = matches(in)
		}
		if err := printer(out, r); err != nil {
			return fmt.Errorf("write verdict: %w", err)
		}
		return nil
	}
	if err := eachReply(flags.Args(), files, stdio.In, one); err != nil {
		return errors.Join(err, out.Flush())
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write verdict: %w", err)
	}
	return nil
}

// eachReply calls one with each reply: of args, or else of files, or else of in.
func eachReply(args, files []string, in io.Reader, one func(string) error) error {
	for _, reply := range args {
		if err := one(reply); err != nil {
			return err
		}
	}
	if len(args) > 0 {
		return nil
	}
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if err := eachLine(name, in, one); err != nil {
			return err
		}
	}
	return nil
}

func eachLine(name string, in io.Reader, one func(string) error) error {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return service.Configf("carom classify: %w", err)
		}
		defer func() { _ = file.Close() }() // only read
		in = file
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if err := one(lines.Text()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read replies: %w", err)
	}
	return nil
}

func resultOf(reply string, v Verdict) result {
	r := result{
		Reply: reply, Category: string(v.Category), Group: v.Category.Group(), Class: string(v.Class),
		Dimension: string(v.Dimension), Scope: string(v.Scope), ScopeValue: v.ScopeValue, Rule: v.Rule, Version: v.Version,
	}
	for _, rule := range builtin().rules {
		if rule.id == v.Rule {
			r.Source = rule.source
		}
	}
	return r
}

func printJSON(w io.Writer, r result) error { return json.NewEncoder(w).Encode(r) }

func printTSV(w io.Writer, r result) error {
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\n", r.Reply, r.Category, r.Class)
	return err
}

func printText(w io.Writer, r result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  %s (%s), class %s, dimension %s", r.Reply, r.Category, r.Group, r.Class, r.Dimension)
	if r.Scope != "" {
		b.WriteString(strings.TrimSuffix(", scope "+r.Scope+" "+r.ScopeValue, " "))
	}
	fmt.Fprintf(&b, "\n  by rule %s, version %d", r.Rule, r.Version)
	if r.Source != "" {
		fmt.Fprintf(&b, " (%s)", r.Source)
	}
	b.WriteByte('\n')
	for _, m := range r.Matches {
		fmt.Fprintf(&b, "    %s: %s: %s\n", m.Rule, m.Category, m.Why)
		if m.Pattern != "" {
			fmt.Fprintf(&b, "      %s\n", m.Pattern)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
