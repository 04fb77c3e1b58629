"""What a question is and how it is answered: parse, plan, execute, answer. No I/O, no clock."""
