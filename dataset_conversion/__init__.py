"""One public dataset a file: its label table and its cases. Converters arrive with the conversion engine."""
