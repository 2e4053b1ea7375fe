module ApplicationHelper
  # A column for the comparison: nothing of it may be rounded away.
  def cell(record, column)
    return tag.span("missing", class: "missing") if record.nil?

    case value = record[column]
    when nil then tag.span("NULL", class: "null")
    when Time then value.utc.strftime("%F %T.%6N")
    when BigDecimal then value.to_s("F")
    else value.to_s
    end
  end
end
