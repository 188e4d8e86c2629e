package console

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/orders"
)

const (
	queueArgument = "[QUEUE] [FLAG…]"

	selects = "QUEUE is a pattern domain/vmta in which * stands for any text; a domain alone means all its virtual MTAs.\n" +
		"What several flags name is what meets all of them.\n"
	lasts = "The order is in force within a second, and stays over restarts until it expires or is ended (see carom queue holds).\n"
)

var queueCommand = command{
	name:  "queue",
	about: "carom queue shows what waits in a running node, and says what shall become of it.",
	example: `Example:
  carom queue top
  carom queue pause 'gmail.com/*' --reason "blocked, ticket 81" --expires 2h
  carom queue explain gmail.com/mail1
  carom queue delete --job june-sale --older-than 1d --dry-run`,
	verbs: []verb{
		{"top", "[QUEUE] [FLAG…]", "the queues with the most mail, again and again", `On a terminal it shows them anew every second until you press Ctrl-C; otherwise, or with --once, once.

Example:
  carom queue top '*/mail1' --sort out`, top},
		{"list", queueArgument, "mail that waits, a line a recipient", selects + `
Example:
  carom queue list --job june-sale --older-than 2h --max 20`, list},
		{"pause", queueArgument, "let mail wait", selects + lasts + `An attempt that is under way goes on. Nothing is lost; what has outlived its bounce-after meanwhile expires when it is resumed.

Example:
  carom queue pause 'gmail.com/*' --reason "blocked, ticket 81" --expires 2h
  carom queue pause --job june-sale`, pause},
		{"resume", queueArgument, "end pauses, or any order by its number", `Ends the pauses that were made with the same words; a QUEUE pattern ends those of all queues that fit it.
A pause of a job is ended by naming the job.

Example:
  carom queue resume 'gmail.com/*'
  carom queue resume --order 12`, resume},
		{"delete", queueArgument, "throw mail away", selects + `It is gone from the queues when the command returns, whatever its size. What each recipient became (deleted) is
written in the background, and after a crash goes on where it was. It cannot be taken back.

Example:
  carom queue delete --job june-sale --older-than 1d --dry-run
  carom queue delete --job june-sale --older-than 1d --reason "wrong price"`, deleteMail},
		{"reroute", "[QUEUE] --to VMTA [FLAG…]", "send waiting mail by another virtual MTA", selects + `Mail that arrives later goes its own way. The order stays until the mail that it moved is gone.

Example:
  carom queue reroute 'yahoo.com/mail1' --to mail2 --reason "mail1 is listed"`, reroute},
		{"set-mode", "normal|backoff QUEUE [FLAG…]", "hold queues in backoff, or end that", `backoff holds the queues that fit in backoff mode until it expires or normal is set.
normal takes them out of backoff, whatever brought them there.

Example:
  carom queue set-mode backoff 'outlook.com/*' --expires 1h
  carom queue set-mode normal 'outlook.com/*'`, setMode},
		{"explain", "QUEUE", "which limit binds a queue now, set by whom, and why", `Example:
  carom queue explain gmail.com/mail1`, explain},
		{"schedule", "QUEUE", "try queues now, whatever they wait for", `Ends the wait for the next retry of the queues that fit. Pauses and limits stay.

Example:
  carom queue schedule 'example.com/*'`, schedule},
		{"holds", "[FLAG…]", "the orders in force", `Example:
  carom queue holds`, holds},
	},
}

// QueueCommand is "carom queue".
func QueueCommand(ctx context.Context, args []string, stdio service.IO) error {
	return queueCommand.run(ctx, args, stdio)
}

// instruction are the flags of whatever changes something.
type instruction struct {
	reason  string
	expires interval
	dryRun  bool
}

func (c *call) instruction(expires string) *instruction {
	i := &instruction{}
	c.StringVar(&i.reason, "reason", "", "`TEXT` for whoever asks why")
	c.BoolVar(&i.dryRun, "dry-run", false, "only say what it would meet")
	if expires != "" {
		c.Var(&i.expires, expires, "end by itself after this `TIME`, such as 2h or 1d12h")
	}
	return i
}

// give sends an instruction and shows what became of it.
func (c *call) give(ctx context.Context, i *instruction, what admin.Instruction, text func(io.Writer, *admin.Result) error) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	what.Reason, what.DryRun = i.reason, i.dryRun
	if i.expires > 0 {
		what.Expires = clock.Now().Add(time.Duration(i.expires)).UTC().Truncate(time.Second)
	}
	result, err := client.Give(ctx, what)
	if err != nil {
		return err
	}
	return c.show(result, func(w io.Writer) error {
		if result.DryRun {
			return wouldText(w, &what, &result)
		}
		return text(w, &result)
	})
}

func pause(c *call) func(context.Context, []string) error {
	s, i := c.selection(true), c.instruction("expires")
	return func(ctx context.Context, args []string) error {
		f, err := s.read(c, args)
		if err != nil {
			return err
		}
		return c.give(ctx, i, admin.Instruction{Kind: orders.Pause, Filter: f}, pausedText)
	}
}

func resume(c *call) func(context.Context, []string) error {
	s, i := c.selection(false), c.instruction("")
	id := c.Uint64("order", 0, "end the order with this `NUMBER`, of whatever kind (see carom queue holds)")
	return func(ctx context.Context, args []string) error {
		f, err := s.read(c, args)
		if err != nil {
			return err
		}
		if *id == 0 {
			return c.give(ctx, i, admin.Instruction{Kind: admin.Resume, Filter: f}, resumedText)
		}
		if !f.IsZero() || i.dryRun {
			return service.Configf("%s: --order names all there is to say", c.command)
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		ended, err := client.End(ctx, *id)
		if err != nil {
			return err
		}
		return c.show(ended, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "Order %d ended: %s\n", ended.ID, printable(ended.String()))
			return err
		})
	}
}

func deleteMail(c *call) func(context.Context, []string) error {
	s, i := c.selection(true), c.instruction("")
	return func(ctx context.Context, args []string) error {
		f, err := s.read(c, args)
		if err != nil {
			return err
		}
		return c.give(ctx, i, admin.Instruction{Kind: orders.Delete, Filter: f}, deletedText)
	}
}

func reroute(c *call) func(context.Context, []string) error {
	s, i := c.selection(true), c.instruction("")
	to := c.String("to", "", "the virtual MTA `NAME` to go by")
	return func(ctx context.Context, args []string) error {
		f, err := s.read(c, args)
		if err != nil {
			return err
		}
		if *to == "" {
			return service.Configf("%s: where to? (--to VMTA)", c.command)
		}
		return c.give(ctx, i, admin.Instruction{Kind: orders.Reroute, Filter: f, To: *to}, reroutedText)
	}
}

func setMode(c *call) func(context.Context, []string) error {
	i := c.instruction("expires")
	return func(ctx context.Context, args []string) error {
		if len(args) != 2 {
			return service.Configf("%s: want a mode, normal or backoff, and a queue", c.command)
		}
		what := admin.Instruction{Kind: orders.SetMode, Mode: args[0], Filter: orders.Filter{Queue: orders.QueuePattern(args[1])}}
		return c.give(ctx, i, what, modeText)
	}
}

func schedule(c *call) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		if len(args) != 1 {
			return service.Configf("%s: want one queue (quote patterns with *)", c.command)
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		n, err := client.Schedule(ctx, orders.QueuePattern(args[0]))
		if err != nil {
			return err
		}
		return c.show(map[string]int{"queues": n}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%d matching queues scheduled.\n", n)
			return err
		})
	}
}

func list(c *call) func(context.Context, []string) error {
	s := c.selection(true)
	most := c.Int("max", 100, "at most this `NUMBER` of recipients")
	return func(ctx context.Context, args []string) error {
		f, err := s.read(c, args)
		if err != nil {
			return err
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		messages, err := client.Messages(ctx, f, *most)
		if err != nil {
			return err
		}
		return c.show(messages, func(w io.Writer) error { return messagesText(w, messages, *most) })
	}
}

func explain(c *call) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		if len(args) != 1 {
			return service.Configf("%s: want one queue, domain/vmta (see carom queue top)", c.command)
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		e, err := client.Explain(ctx, args[0])
		if err != nil {
			return err
		}
		return c.show(e, func(w io.Writer) error { return explainText(w, &e) })
	}
}

func holds(c *call) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		if len(args) != 0 {
			return service.Configf("%s: unexpected argument %q", c.command, args[0])
		}
		client, err := c.client()
		if err != nil {
			return err
		}
		all, err := client.Orders(ctx)
		if err != nil {
			return err
		}
		return c.show(all, func(w io.Writer) error { return ordersText(w, all) })
	}
}

// orderNumber returns how a result names its order.
func orderNumber(r *admin.Result) string {
	if r.Order == nil {
		return ""
	}
	return "Order " + strconv.FormatUint(r.Order.ID, 10) + ": "
}
