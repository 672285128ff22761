"""What of the loop is LangChain middleware: each part wraps the question to the model, the first outermost."""
